"""Reads torch.export graphs, in the ATen and in the edge dialect alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, OutputKind
from torch.fx import Node

from ..errors import Unsupported
from .aten import COPIES

# In the meta of a buffer's placeholder: it is a state even where its own method only reads it. Its value is the key
# under which methods share it, empty until all of them are known.
STATE_KEY = "zeropoint_state"
_INNER_TENSOR = "export.access_subclass_inner_tensor.default"
# What `_copy` names is the operator itself and not a view's functional twin.
_REAL_COPIES = ("aten._to_copy.default", "aten.index_copy.default")
# A schema default of type ScalarType is a number of c10::ScalarType.
_SCALAR_TYPES = {1: torch.int8, 3: torch.int32, 4: torch.int64, 5: torch.float16, 6: torch.float32, 15: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class _Inputs:
    """A signature by names: torch's own properties walk all of it at every question."""

    signature: ExportGraphSignature
    sizes: tuple[int, int]  # of its lists, which passes change in place
    specs: Mapping[str, InputSpec]  # by placeholder
    mutated: frozenset[str]  # buffers


_INPUTS: WeakKeyDictionary[ExportedProgram, _Inputs] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant operand. data is None while only its shape and dtype are known; nodes lead from it to the user."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    data: torch.Tensor | None
    nodes: tuple[Node, ...]

    def array(self) -> torch.Tensor:
        """The data, dense and detached. Only after lowering has real weights."""
        assert self.data is not None, f"constant {self.name} has no data"
        return self.data.detach().contiguous()


def operator_of(node: Node) -> torch._ops.OpOverload | None:
    """The ATen-level operator of a node of either dialect; None for what is no operator."""
    target: object = node.target
    if node.op == "call_function" and not isinstance(target, torch._ops.OpOverload):
        target = getattr(target, "_op", None)
    return target if isinstance(target, torch._ops.OpOverload) else None


def op_name(node: Node) -> str:
    """`aten.view.default` for aten.view, aten.view_copy and their edge twins; "" for what is no operator."""
    if node.op != "call_function":
        return ""
    target = operator_of(node)
    if target is None:
        return getattr(node.target, "__name__", str(node.target))
    name = str(target)
    return name.replace("_copy.", ".") if name.startswith("aten.") and name not in _REAL_COPIES else name


def arguments(node: Node) -> dict[str, object]:
    """Every argument by its schema name, defaults filled in, dtypes as torch dtypes."""
    target = operator_of(node)
    assert target is not None, node.target
    values: dict[str, object] = {}
    for index, parameter in enumerate(target._schema.arguments):
        if index < len(node.args):
            values[parameter.name] = node.args[index]
        elif parameter.name in node.kwargs:
            values[parameter.name] = node.kwargs[parameter.name]
        elif parameter.has_default_value():
            values[parameter.name] = parameter.default_value
        number = values.get(parameter.name)
        if str(parameter.real_type) == "ScalarType" and isinstance(number, int):
            values[parameter.name] = _SCALAR_TYPES[number]
    return values


def node_argument(values: Mapping[str, object], name: str) -> Node:
    """The argument as a node. Raises Unsupported when it is anything else."""
    value = values[name]
    if not isinstance(value, Node):
        raise Unsupported(f"argument {name} is {value!r}; need a tensor")
    return value


def tensor_of(node: Node) -> torch.Tensor:
    """The node's value as the export traced it: shape and dtype."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise Unsupported(f"{node.name} is no tensor ({type(value).__name__})")
    return value


def is_size(node: Node) -> bool:
    """Whether a node computes a number or asserts something."""
    value = node.meta.get("val")
    return node.op == "call_function" and (
        value is None or isinstance(value, (bool, int, float, torch.SymInt, torch.SymBool, torch.SymFloat))
    )


def static_dim(node: Node, axis: int) -> int:
    """A dimension that must be known at export."""
    size = tensor_of(node).shape[axis]
    if not isinstance(size, int):
        raise Unsupported(f"{node.name}: dimension {axis} is dynamic ({size}); it must be static")
    return size


def find_constant(program: ExportedProgram, node: Node, weights: Mapping[str, torch.Tensor]) -> Constant | None:
    """The constant a node stands for, or None when it is computed, an input or mutated.

    weights: real parameters and buffers by qualified name, for programs that carry fake ones.
    """
    nodes: list[Node] = []
    inner = ""
    while op_name(node) in COPIES or op_name(node) == _INNER_TENSOR:
        nodes.append(node)
        if op_name(node) == _INNER_TENSOR:
            inner = str(node.args[1])
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
    found = _stored(program, node, weights)
    if found is None:
        return None
    name, data = found
    if inner:
        name, data = f"{name}.{inner}", getattr(data, inner)
    real = None if isinstance(data, torch._subclasses.FakeTensor) else data
    return Constant(name, tuple(data.shape), data.dtype, real, (*nodes, node))


def mutated_buffer(program: ExportedProgram, node: Node) -> Constant | None:
    """The buffer of a placeholder that the program, or another method, changes, with its first contents."""
    spec = _spec_of(program, node)
    if spec is None or spec.kind is not InputKind.BUFFER or not _is_mutated(program, node, spec):
        return None
    name, data = _named(str(spec.target), None, _data_of(program, spec))
    real = None if isinstance(data, torch._subclasses.FakeTensor) else data
    return Constant(name, tuple(data.shape), data.dtype, real, (node,))


def _is_mutated(program: ExportedProgram, node: Node, spec: InputSpec) -> bool:
    return spec.kind is InputKind.BUFFER and (STATE_KEY in node.meta or spec.target in _inputs_of(program).mutated)


def _stored(
    program: ExportedProgram, node: Node, weights: Mapping[str, torch.Tensor]
) -> tuple[str, torch.Tensor] | None:
    if node.op == "get_attr":
        data = getattr(program.graph_module, str(node.target), None)
        return (str(node.target), data) if isinstance(data, torch.Tensor) else None
    spec = _spec_of(program, node)
    if spec is None or spec.target is None or _is_mutated(program, node, spec):
        return None
    if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
        return None
    real = None if spec.kind is InputKind.CONSTANT_TENSOR else weights.get(spec.target)
    return _named(spec.target, real, _data_of(program, spec))


def _spec_of(program: ExportedProgram, node: Node) -> InputSpec | None:
    return _inputs_of(program).specs.get(node.name) if node.op == "placeholder" else None


def _inputs_of(program: ExportedProgram) -> _Inputs:
    signature, known = program.graph_signature, _INPUTS.get(program)
    sizes = (len(signature.input_specs), len(signature.output_specs))
    if known is None or known.signature is not signature or known.sizes != sizes:
        specs = {spec.arg.name: spec for spec in signature.input_specs}
        outputs = [spec for spec in signature.output_specs if spec.kind is OutputKind.BUFFER_MUTATION]
        known = _Inputs(signature, sizes, specs, frozenset(str(spec.target) for spec in outputs))
        _INPUTS[program] = known
    return known


def _data_of(program: ExportedProgram, spec: InputSpec) -> torch.Tensor | None:
    """Persistent buffers lie beside the parameters, others beside the constants."""
    inner = spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent)
    data: torch.Tensor | None = (program.state_dict if inner else program.constants).get(str(spec.target))
    return data


def _named(name: str, real: torch.Tensor | None, stored: torch.Tensor | None) -> tuple[str, torch.Tensor]:
    data = stored if real is None else real
    assert data is not None, f"{name} is in the signature but not in the program"
    return name, data

"""What rules write into: one Program in the making, and the values that graph nodes already have in it."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import numpy.typing as npt
import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._sympy.functions import FloorDiv
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from ..errors import Unsupported
from ..kernels.dtypes import DType
from ..program import Dim, HostDType, Memory, SymbolOp
from ..program.builder import ProgramBuilder
from .copying import emit_copy
from .graph import STATE_KEY, Constant, find_constant, mutated_buffer, tensor_of
from .options import CompileOptions
from .view import ONE, ZERO, View, add, dense_strides, is_dense, scale

HOST_DTYPES: dict[torch.dtype, HostDType] = {
    torch.float32: HostDType.F32,
    torch.float16: HostDType.F16,
    torch.bfloat16: HostDType.BF16,
    torch.int64: HostDType.I64,
    torch.int32: HostDType.I32,
    torch.int8: HostDType.I8,
    torch.uint8: HostDType.U8,
    torch.bool: HostDType.BOOLEAN,
}
_INTEGER_DTYPES = {
    torch.int64: DType.I32,
    torch.int32: DType.I32,
    torch.int8: DType.I8,
    torch.uint8: DType.U8,
    torch.bool: DType.U8,
}
_MODEL_DTYPES = {torch.float32: DType.F32, torch.float16: DType.F16, torch.bfloat16: DType.F32}


_TORCH_DTYPES = {
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.I32: torch.int32,
    DType.I8: torch.int8,
    DType.U8: torch.uint8,
}


class NotApplicable(Unsupported):
    """The node is not what this rule is for; another rule of the same operator may take it."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a rule did with a node: the nodes it consumed, and the kernels it called.

    apart: its value lies in pieces that no binding holds together, so nothing in the same Program may read it.
    needs: nodes whose rules do the rest of it, without which it means nothing.
    """

    nodes: tuple[Node, ...]
    kernels: tuple[str, ...]
    apart: bool = False
    needs: tuple[Node, ...] = ()


@dataclass(slots=True)
class Lowering:
    """Collects one Program. Everything a rule may ask of the graph or add to the Program goes through here.

    weights: real parameters and buffers by qualified name, where the exported program itself carries fake ones.
    scales: by the codes of an int8 cache, its scales. given: tensors that hold inputs of the Program.
    """

    program: ExportedProgram
    options: CompileOptions
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    builder: ProgramBuilder = field(default_factory=ProgramBuilder)
    scales: dict[int, int] = field(default_factory=dict)
    given: set[int] = field(default_factory=set)
    _guards: dict[View, View] = field(default_factory=dict)
    _values: dict[Node, View] = field(default_factory=dict)
    _pieces: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    _derived: dict[tuple[SymbolOp, Dim, Dim], Dim] = field(default_factory=dict)
    _made: dict[Hashable, tuple[int, ...]] = field(default_factory=dict)
    _symbols: dict[sympy.Expr, Dim] = field(default_factory=dict)

    def constant(self, node: Node) -> Constant | None:
        """The constant a node stands for; None when it is computed, an input or mutated."""
        return find_constant(self.program, node, self.weights)

    def float_dtype(self, dtype: torch.dtype) -> DType:
        """Device dtype of a floating-point activation."""
        if dtype not in _MODEL_DTYPES:
            raise Unsupported(f"activation dtype {dtype}; offered float32, float16, bfloat16")
        return _MODEL_DTYPES[dtype] if self.options.compute_dtype == "model" else DType(self.options.compute_dtype)

    def device_dtype(self, dtype: torch.dtype) -> DType:
        """Device dtype of a value that the graph types so."""
        if dtype.is_floating_point:
            return self.float_dtype(dtype)
        if dtype not in _INTEGER_DTYPES:
            raise Unsupported(f"dtype {dtype}; offered {', '.join(map(str, HOST_DTYPES))}")
        return _INTEGER_DTYPES[dtype]

    def view(self, node: Node) -> View:
        """A node's value: computed here, in pieces that then are joined, a constant, a state, or an input."""
        if node not in self._values:
            self._values[node] = self.dense_view(self._joined(node) if node in self._pieces else self._stored(node))
        return self._values[node]

    def has_value(self, node: Node) -> bool:
        """Whether a node was lowered or is none that would be."""
        return node in self._values or node.op != "call_function"

    def guard(self, view: View, checked: View) -> None:
        """Says where the integers of a view lie once a call has looked at them as indices."""
        self._guards[_single(view)] = checked

    def guarded(self, view: View) -> View:
        """The view, or where its integers lie that were looked at."""
        found = self._guards.get(_single(view))
        if found is None:
            return view
        strides = found.strides if len(found.sizes) == len(view.sizes) else (ZERO,) * len(view.sizes)
        return View(found.tensor, found.offset, view.sizes, strides)

    def knows(self, size: int | torch.SymInt) -> bool:
        """Whether a traced size is made of sizes that the Program has."""
        return isinstance(size, int) or size.node.expr.free_symbols <= self._symbols.keys()

    def integer_symbols(self) -> set[int]:
        """The symbols that integer inputs give their values."""
        nodes = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        sizes = [node.meta["val"] for node in nodes if isinstance(node.meta.get("val"), torch.SymInt)]
        return {self.integer_input(size).terms[0][1] for size in sizes}

    def operand(self, node: Node, dims: Sequence[int | Dim] | None = None) -> int:
        """A tensor that holds a node's value densely, with the node's dimensions or with these. Copies if it must."""
        view = self.view(node)
        wanted = view.sizes if dims is None else tuple(Dim(dim) if isinstance(dim, int) else dim for dim in dims)
        tensor = view.tensor
        if view.offset != ZERO or not is_dense(view, self.multiply) or self._is_part_of_constant(view):
            tensor = self.once(("dense", node), lambda: (self._copied(node.name, view),))[0]
        if self.builder.tensor_info(tensor).dims == wanted:
            return tensor
        return self.once(("alias", tensor, wanted), lambda: (self._alias(tensor, wanted),))[0]

    def new(self, node: Node, dims: Sequence[int | Dim] | None = None) -> int:
        """Declares the dense tensor of a node's value, in the node's dimensions or in these, and binds it."""
        value = tensor_of(node)
        own = self.dims(value.shape)
        tensor = self.builder.tensor(node.name, self.device_dtype(value.dtype), own if dims is None else dims)
        self._check_fits(node.name, tensor)
        self.bind_view(node, View(tensor, ZERO, own, dense_strides(own, self.multiply)))
        return tensor

    def bind_view(self, node: Node, view: View) -> None:
        """Says where a node's value lies."""
        self._values[node] = view

    def dense_view(self, tensor: int) -> View:
        """All of a tensor."""
        dims = self.builder.tensor_info(tensor).dims
        return View(tensor, ZERO, dims, dense_strides(dims, self.multiply))

    def result(self, node: Node) -> tuple[int, ...]:
        """The tensors that hold a node's value densely, side by side."""
        return self._pieces[node] if node in self._pieces else (self.operand(node),)

    def bind(self, node: Node, pieces: Sequence[int]) -> None:
        """Says which dense tensors hold a node's value, side by side."""
        if len(pieces) > 1:
            self._pieces[node] = tuple(pieces)
        else:
            self._values[node] = self.dense_view(pieces[0])

    def is_apart(self, node: Node) -> bool:
        """Whether a node's value lies in pieces that one binding would not hold together."""
        return self._size_of_pieces(node) > self.options.max_binding_bytes

    def _size_of_pieces(self, node: Node) -> int:
        return sum(self.builder.tensor_info(piece).size_bytes for piece in self._pieces.get(node, ()))

    def returned(self, node: Node, given: Container[int]) -> tuple[int, ...]:
        """result(), copied where it lies in memory that the host does not read, or in an input of the Program."""
        pieces = self.result(node)
        if len(pieces) == 1 and (pieces[0] in given or self.builder.tensor_info(pieces[0]).memory is not Memory.ARENA):
            return (self._copied(node.name, self.view(node)),)
        return pieces

    def write_state(self, name: str, node: Node) -> None:
        """Makes a node's value the new contents of a mutated buffer, unless it was computed in place."""
        source = next(n for n, buffer in self.program.graph_signature.inputs_to_buffers.items() if buffer == name)
        placeholder = next(n for n in self.program.graph.nodes if n.name == source)
        state, value = self.view(placeholder), self.view(node)
        if value.tensor != state.tensor and self.builder.tensor_info(value.tensor).memory is Memory.STATE:
            value = self.dense_view(self._copied(name, value))  # the other state may be written first
        if value != state:
            self.copy(value, state, name=f"{name}.update")

    def call(
        self,
        kernel: str,
        args: Mapping[str, int | None],
        attrs: Mapping[str, int | float | Dim] | None = None,
        *,
        node: Node,
    ) -> None:
        """Appends a kernel call that computes a node. Raises ProgramError as ProgramBuilder.call does."""
        handle = node.meta.get("debug_handle")
        handles = (handle,) if isinstance(handle, int) else ()
        self.builder.call(kernel, args, attrs, name=node.name, debug_handles=handles)

    def copy(self, source: View, target: View, *, name: str) -> None:
        """Appends the strided copies that put every element of source into target. Dtypes may differ."""
        emit_copy(self.builder, source, target, multiply=self.multiply, name=name)

    def size(self, value: object) -> Dim:
        """An integer argument of an operator: a number, a traced size, or the node that computes one."""
        if isinstance(value, Node):
            value = value.meta.get("val")
        if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
            raise Unsupported(f"size {value!r}; need an integer")
        return Dim(value) if isinstance(value, int) else self.symbolic(value)

    def multiply(self, a: Dim, b: Dim) -> Dim:
        """a * b; a symbol of its own when both are symbolic. Neither may be negative then."""
        if not a.terms or not b.terms:
            return scale(b, a.base) if not a.terms else scale(a, b.base)
        return self._derive(SymbolOp.PRODUCT, *sorted((a, b), key=repr))

    def quotient(self, a: Dim, b: Dim) -> Dim:
        """floor(a / b), b at least 1."""
        if not a.terms and not b.terms:
            return Dim(a.base // b.base)
        if b == ONE:
            return a
        parts = (a.base, *(coefficient for coefficient, _ in a.terms))
        if not b.terms and all(part % b.base == 0 for part in parts):
            return Dim(a.base // b.base, tuple((coefficient // b.base, index) for coefficient, index in a.terms))
        return self._derive(SymbolOp.QUOTIENT, a, b)

    def product(self, dims: Sequence[Dim]) -> Dim:
        """Of all dimensions; 1 of none."""
        result = ONE
        for dim in dims:
            result = self.multiply(result, dim)
        return result

    def _derive(self, op: SymbolOp, a: Dim, b: Dim) -> Dim:
        if (op, a, b) not in self._derived:
            self._derived[op, a, b] = self.builder.derived(op, a, b)
        return self._derived[op, a, b]

    def _stored(self, node: Node) -> int:
        """The tensor of a value that no rule computed."""
        value = tensor_of(node)
        dtype = self.device_dtype(value.dtype)
        state = mutated_buffer(self.program, node)
        if state is not None:
            data = self._constant_data(state, dtype)
            first, shared = data if _nonzero(state) else None, node.meta.get(STATE_KEY, "")
            return self.builder.state(state.name, dtype, state.shape, data=first, shared=shared)
        constant = self.constant(node)
        if constant is None:
            tensor = self.builder.tensor(node.name, dtype, self.dims(value.shape))
            self.given.add(tensor)
            return tensor
        name, data = constant.name, self._constant_data(constant, dtype)
        return self.once(
            ("constant", name, dtype), lambda: (self.builder.constant(name, dtype, constant.shape, data=data),)
        )[0]

    def _joined(self, node: Node) -> int:
        """The tensor into which pieces that lie side by side are copied."""
        sizes, pieces = self.dims(tensor_of(node).shape), self._pieces[node]
        if self.is_apart(node):
            size, limit = self._size_of_pieces(node), self.options.max_binding_bytes
            raise Unsupported(
                f"its input {node.name}, {len(pieces)} column pieces: {size} bytes; max_binding_bytes {limit}; raise it"
            )
        tensor = self.builder.tensor(f"{node.name}.joined", self.builder.tensor_info(pieces[0]).dtype, sizes)
        strides, column = dense_strides(sizes, self.multiply), 0
        for piece in pieces:
            source = self.dense_view(piece)
            self.copy(source, View(tensor, Dim(column), source.sizes, strides), name=f"{node.name}.joined")
            column += source.sizes[-1].base
        return tensor

    def _constant_data(self, constant: Constant, dtype: DType) -> Callable[[], npt.NDArray[np.generic]]:
        def data() -> npt.NDArray[np.generic]:
            values = constant.array()
            if values.dtype is torch.int64 and values.numel() and values.abs().max() >= 2**31:
                raise Unsupported(f"constant {constant.name}: a value beyond 32 bits")
            array: npt.NDArray[np.generic] = values.to(_TORCH_DTYPES[dtype]).numpy()
            return array

        return data

    def _copied(self, name: str, view: View) -> int:
        dtype = self.builder.tensor_info(view.tensor).dtype
        tensor = self.builder.tensor(f"{name}.dense", dtype, view.sizes)
        self._check_fits(name, tensor)
        self.copy(view, self.dense_view(tensor), name=f"{name}.dense")
        return tensor

    def _alias(self, tensor: int, dims: tuple[Dim, ...]) -> int:
        info = self.builder.tensor_info(tensor)
        if info.memory is not Memory.CONSTANT:
            return self.builder.alias(tensor, dims)
        return self.builder.constant_alias(tensor, [dim.base for dim in dims])

    def _is_part_of_constant(self, view: View) -> bool:
        """Of which there are no aliases."""
        info = self.builder.tensor_info(view.tensor)
        return info.memory is Memory.CONSTANT and self.product(view.sizes) != self.product(info.dims)

    def _check_fits(self, name: str, tensor: int) -> None:
        size, limit = self.builder.tensor_info(tensor).size_bytes, self.options.max_binding_bytes
        if size > limit:
            raise Unsupported(
                f"{name}: {size} bytes at the largest sizes; max_binding_bytes {limit}; lower the maximum"
            )

    def once(self, key: Hashable, make: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """The tensors made under this key, made at the first request: shared work and shared constants."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def dims(self, shape: Sequence[int | torch.SymInt]) -> tuple[Dim, ...]:
        """A traced shape as Program dimensions."""
        return tuple(Dim(size) if isinstance(size, int) else self.symbolic(size) for size in shape)

    def symbolic(self, size: torch.SymInt) -> Dim:
        """A traced size: affine in one symbol, computed from known symbols, or else a symbol of its own."""
        expression = size.node.expr
        if expression.is_Integer:
            return Dim(int(expression))
        if expression not in self._symbols and expression.free_symbols <= self._symbols.keys():
            computed = self._computed(expression)
            if computed is not None:
                return computed
        free = sorted(expression.free_symbols, key=str)
        if len(free) == 1:
            factor = expression.coeff(free[0])
            base = sympy.expand(expression - factor * free[0])
            if factor.is_Integer and base.is_Integer:
                ((_, index),) = self._symbol(free[0], size).terms
                return Dim(int(base), ((int(factor), index),))
        return self._symbol(expression, size)

    def _computed(self, expression: sympy.Expr) -> Dim | None:
        """The expression in terms of known symbols; None when it has other operations than + * // by sizes >= 1."""
        if expression in self._symbols:
            return self._symbols[expression]
        if expression.is_Integer:
            return Dim(int(expression))
        parts = [self._computed(part) for part in expression.args]
        known = [part for part in parts if part is not None]
        if not parts or len(known) < len(parts):
            return None
        if expression.is_Add:
            return reduce(add, known)
        if expression.is_Mul:
            return self.product(known)
        if expression.is_Pow and expression.args[1] == 2:
            return self.multiply(known[0], known[0])
        if isinstance(expression, FloorDiv) or type(expression).__name__ == "CleanDiv":
            return self.quotient(known[0], known[1])
        return None

    def integer_input(self, size: torch.SymInt) -> Dim:
        """The symbol that an integer argument gives a value: its own, whatever expression it traced as."""
        dim = self.symbolic(size)
        return (
            dim
            if dim.base == 0 and len(dim.terms) == 1 and dim.terms[0][0] == 1
            else self._symbol(size.node.expr, size)
        )

    def _symbol(self, expression: sympy.Expr, size: torch.SymInt) -> Dim:
        if expression not in self._symbols:
            known = {**size.node.shape_env.var_to_range, **self.program.range_constraints}
            bounds = bound_sympy(expression, {name: _relaxed(bounds) for name, bounds in known.items()})
            if not isinstance(bounds.upper, (int, sympy.Integer)) or bounds.upper >= 2**31:
                raise Unsupported(
                    f"dynamic dimension {expression} has no upper bound; give it one: torch.export.Dim(name, max=...)"
                )
            name = f"s{len(self._symbols)}"
            self._symbols[expression] = self.builder.symbol(name, int(bounds.lower), int(bounds.upper))
        return self._symbols[expression]


def _single(view: View) -> View:
    """One element, in whatever dimensions."""
    return View(view.tensor, view.offset, (), ()) if all(size == ONE for size in view.sizes) else view


def _nonzero(state: Constant) -> bool:
    return state.data is not None and bool(state.data.detach().count_nonzero())


def _relaxed(bounds: ValueRanges[sympy.Expr]) -> ValueRanges[sympy.Expr]:
    """Undoes what torch.export does to keep 0 and 1 from specializing a graph: a lower bound raised to 2."""
    return ValueRanges(1, bounds.upper) if bounds.lower == 2 else bounds

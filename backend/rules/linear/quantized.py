"""Linears with quantized weights: 8da4w, 8da8w and weight-only, in every form that export leaves them.

`aten.linear` when the partitioner kept it whole, otherwise `mm`, `addmm` or `bmm` of reshaped operands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from ...errors import Unsupported
from ...lowering.aten import CASTS, STILL, TRANSPOSES
from ...lowering.graph import Constant, arguments, node_argument, op_name, static_dim, tensor_of
from ...lowering.lowering import Lowered, Lowering, NotApplicable
from ...lowering.packing import STEPS, Layout
from .activation import is_dequantize, read_activation
from .calls import Linear, emit_linear
from .weight import DEQUANTIZE, Weight, read_weight
from .weight import is_dequantize as is_dequantize_of_weight

_ASSERTION = "aten._assert_tensor_metadata.default"


@dataclass(frozen=True, slots=True)
class _Operands:
    """y = x @ weight.T + bias. nodes: what lies between the operands and the product."""

    x: Node
    weight: Node
    bias: Node | None
    nodes: tuple[Node, ...]


def lower_linear(node: Node, lowering: Lowering) -> Lowered:
    """Lowers one linear, or raises Unsupported."""
    operands = _read_operands(node)
    if not is_dequantize_of_weight(operands.weight):
        name = op_name(operands.weight)
        how = f"quantized by {name}" if "dequantize" in name else f"not quantized ({name or operands.weight.op})"
        raise NotApplicable(f"weight {operands.weight.name} is {how}; offered {', '.join(DEQUANTIZE)}")
    weight = read_weight(operands.weight, lowering)
    source, between = _skip_reshapes(operands.x)
    activation = read_activation(source) if is_dequantize(source) else None
    x = operands.x if activation is None else activation.x
    assert static_dim(x, -1) == weight.row_length, f"{x.name} does not fit {operands.weight.name}"
    bias = _read_bias(operands.bias, weight, lowering)
    if weight.has_terms and weight.group_size % STEPS[0]:
        raise Unsupported(
            f"weight zero points of {operands.weight.name} are not all integers, in groups of {weight.group_size}; "
            f"offered groups of a multiple of {STEPS[0]}"
        )
    layout = Layout.of(weight.row_length, weight.group_size, padded=not weight.has_terms)
    pieces, kernels = emit_linear(Linear(node, x, activation, weight, bias, layout), lowering)
    lowering.bind(node, pieces)
    nodes = (*operands.nodes, *weight.nodes)
    if activation is not None:
        nodes = (*activation.nodes, *between, *nodes)
    return Lowered((*_with_assertions(nodes), node), kernels, lowering.is_apart(node))


WHOLE = (torch.ops.aten.linear.default,)
RULES = {
    "aten.linear.default": lower_linear,
    "aten.mm.default": lower_linear,
    "aten.addmm.default": lower_linear,
    "aten.bmm.default": lower_linear,
    "aten.matmul.default": lower_linear,
}


def _read_operands(node: Node) -> _Operands:
    values = arguments(node)
    match op_name(node):
        case "aten.linear.default":
            bias = values["bias"]
            weight = node_argument(values, "weight")
            return _Operands(node_argument(values, "input"), weight, bias if isinstance(bias, Node) else None, ())
        case "aten.mm.default":
            weight, nodes = _untranspose(node_argument(values, "mat2"))
            return _Operands(node_argument(values, "self"), weight, None, nodes)
        case "aten.addmm.default":
            if values["beta"] != 1 or values["alpha"] != 1:
                raise NotApplicable(f"addmm with beta {values['beta']}, alpha {values['alpha']}; offered 1, 1")
            weight, nodes = _untranspose(node_argument(values, "mat2"))
            return _Operands(node_argument(values, "mat1"), weight, node_argument(values, "self"), nodes)
        case _:
            weight, nodes = _untranspose(node_argument(values, "other" if "other" in values else "mat2"))
            return _Operands(node_argument(values, "self"), weight, None, nodes)


def _skip_reshapes(node: Node) -> tuple[Node, tuple[Node, ...]]:
    """The first node upstream that is not a mere reshape keeping every row whole and in order, and those skipped."""
    skipped: list[Node] = []
    while op_name(node) in STILL | CASTS and isinstance(node.args[0], Node):
        before, after = tensor_of(node.args[0]), tensor_of(node)
        if before.dim() == 0 or before.shape[-1] != after.shape[-1] or before.numel() != after.numel():
            break
        if before.dtype is not after.dtype:
            break
        skipped.append(node)
        node = node.args[0]
    return node, tuple(skipped)


def _with_assertions(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Each node once, and the export's assertions about it, which hold by construction."""
    found = dict.fromkeys(nodes)
    for node in nodes:
        found.update(dict.fromkeys(user for user in node.users if op_name(user) == _ASSERTION))
    return tuple(found)


def _untranspose(node: Node) -> tuple[Node, tuple[Node, ...]]:
    """Undoes [N, K] -> [.., K, N]: leading dimensions that only repeat the matrix, and its transposition."""
    skipped: list[Node] = []
    matrix = tensor_of(node).shape[-2:]
    while op_name(node) in STILL and isinstance(node.args[0], Node):
        if tensor_of(node.args[0]).shape[-2:] != matrix:
            break
        skipped.append(node)
        node = node.args[0]
    if op_name(node) not in TRANSPOSES or tensor_of(node).dim() != 2:
        reason = f"weight {node.name} is {op_name(node) or node.op}; need a transposed quantized weight"
        raise Unsupported(reason) if is_dequantize_of_weight(node) else NotApplicable(reason)
    values = arguments(node)
    if op_name(node) == "aten.permute.default" and values["dims"] not in ([1, 0], [-1, -2]):
        raise Unsupported(f"weight {node.name} is permuted by {values['dims']}; need [1, 0]")
    if op_name(node) == "aten.transpose.int":
        axes = [values["dim0"], values["dim1"]]
        if axes not in ([0, 1], [1, 0], [-2, -1], [-1, -2]):
            raise Unsupported(f"weight {node.name} transposes axes {axes}; need 0 and 1")
    source = node.args[0]
    assert isinstance(source, Node)
    return source, (*skipped, node)


def _read_bias(node: Node | None, weight: Weight, lowering: Lowering) -> Constant | None:
    if node is None:
        return None
    bias = lowering.constant(node)
    if bias is None:
        raise Unsupported(f"bias {node.name} is not a constant")
    if bias.shape != (weight.n_outputs,) or not bias.dtype.is_floating_point or bias.dtype is torch.float64:
        raise Unsupported(
            f"bias {bias.name} is {bias.dtype} {list(bias.shape)}; need half or float [{weight.n_outputs}]"
        )
    return bias

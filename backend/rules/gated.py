"""f(gate) * up in one pass: SwiGLU, GeGLU and the like; and silu where export left it as x * sigmoid(x)."""

from __future__ import annotations

import torch
from torch.fx import Node

from ..kernels._generated.signatures import GateOp, UnaryOp
from ..lowering.graph import arguments, op_name, tensor_of
from ..lowering.lowering import Lowered, Lowering, NotApplicable
from ..lowering.patterns import is_op, is_tensor, operands, shape_of, skip
from ..lowering.view import ONE, ZERO, collapse
from ..program import Dim

_GATES = {
    "aten.silu.default": GateOp.SILU,
    "aten.relu.default": GateOp.RELU,
    "aten.sigmoid.default": GateOp.SIGMOID,
}
_GELUS = {"none": GateOp.GELU, "tanh": GateOp.GELU_TANH}


def lower_gated(node: Node, lowering: Lowering) -> Lowered:
    """A product one of whose factors is an activation."""
    a, b = operands(node)
    if not isinstance(a, Node) or not isinstance(b, Node) or not is_tensor(a) or not is_tensor(b):
        raise NotApplicable(f"{node.name} is no product of two tensors")
    if tensor_of(node).dim() == 0 or not shape_of(a) == shape_of(b) == shape_of(node):
        raise NotApplicable(f"{node.name} broadcasts a factor")
    if not tensor_of(a).dtype == tensor_of(b).dtype == tensor_of(node).dtype or not tensor_of(a).is_floating_point():
        raise NotApplicable(f"{node.name} mixes dtypes")
    silu = _decomposed_silu(node)
    if silu is not None:
        y = lowering.new(node)
        lowering.call("elementwise_unary", {"x": lowering.operand(silu), "y": y}, _silu_attrs(), node=node)
        return Lowered((node,), ("elementwise_unary",))
    for activated, up in ((a, b), (b, a)):
        found = _read_gate(skip(activated))
        if found is not None:
            return _emit(node, found, up, lowering)
    raise NotApplicable(f"{node.name} multiplies no activation")


WHOLE = (torch.ops.aten.silu.default, torch.ops.aten.gelu.default)
RULES = {"aten.mul.Tensor": lower_gated}


def _read_gate(node: Node) -> tuple[Node, GateOp] | None:
    """(x, f) of f(x)."""
    x = node.args[0] if node.args else None
    if not isinstance(x, Node):
        return None
    if op_name(node) in _GATES:
        return x, _GATES[op_name(node)]
    if is_op(node, "aten.gelu.default"):
        return x, _GELUS[str(arguments(node)["approximate"])]
    silu = _decomposed_silu(node)
    return None if silu is None else (silu, GateOp.SILU)


def _decomposed_silu(node: Node) -> Node | None:
    """x of x * sigmoid(x)."""
    if not is_op(node, "aten.mul.Tensor"):
        return None
    for x, weight in ((node.args[0], node.args[1]), (node.args[1], node.args[0])):
        if isinstance(x, Node) and isinstance(weight, Node):
            sigmoid = skip(weight)
            if is_op(sigmoid, "aten.sigmoid.default") and sigmoid.args[0] is x:
                return x
    return None


def _silu_attrs() -> dict[str, int | float | Dim]:
    return {"op": int(UnaryOp.SILU), "alpha": 0.0, "beta": 0.0}


def _emit(node: Node, gate: tuple[Node, GateOp], up: Node, lowering: Lowering) -> Lowered:
    source, op = gate
    first, second = (_rows(item, lowering) for item in (source, up))
    attrs: dict[str, int | float | Dim] = {"op": int(op), "row_length": lowering.dims(tensor_of(node).shape)[-1]}
    y = lowering.new(node)
    for slot, (_, offset, stride) in (("gate", first), ("up", second)):
        attrs |= {f"{slot}_offset": offset, f"{slot}_row_stride": stride}
    lowering.call("gated_activation", {"gate": first[0], "up": second[0], "y": y}, attrs, node=node)
    return Lowered((node,), ("gated_activation",))


def _rows(node: Node, lowering: Lowering) -> tuple[int, Dim, Dim]:
    """(tensor, offset, row stride) of rows as long as the last dimension; a dense copy where rows are uneven."""
    view = lowering.view(node)
    space = collapse(view.sizes[:-1], view.strides[:-1], multiply=lowering.multiply)
    if view.strides[-1] == ONE and len(space) <= 1:
        return view.tensor, view.offset, space[0][1] if space else ZERO
    return lowering.operand(node), ZERO, view.sizes[-1]

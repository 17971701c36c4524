"""Comparisons, logic of bools, where, and casts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels._generated.signatures import BinaryOp, CompareOp
from ..kernels.dtypes import DType
from ..lowering.aten import CASTS
from ..lowering.graph import arguments, node_argument, op_name, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.values import broadcast, cast, check_dtype, element, emit, is_tensor, number_of, operand, temporary
from ..lowering.view import ONE, ZERO, View

_LOGIC = {
    "logical_and": CompareOp.LOGICAL_AND,
    "logical_or": CompareOp.LOGICAL_OR,
    "logical_xor": CompareOp.LOGICAL_XOR,
}
# Of bools: what torch computes for these, bool by bool.
OF_BOOLS = {
    "add": CompareOp.LOGICAL_OR,
    "mul": CompareOp.LOGICAL_AND,
    "minimum": CompareOp.LOGICAL_AND,
    "maximum": CompareOp.LOGICAL_OR,
    "bitwise_and": CompareOp.LOGICAL_AND,
    "bitwise_or": CompareOp.LOGICAL_OR,
    "bitwise_xor": CompareOp.LOGICAL_XOR,
}


def base_name(node: Node) -> str:
    """`add` of aten.add.Tensor; `bitwise_and` of aten.__and__.Tensor."""
    name = op_name(node).split(".")[1]
    return f"bitwise_{name.strip('_')}" if name.startswith("__") else name


def lower_compare(node: Node, lowering: Lowering) -> Lowered:
    """eq, ne, lt, le, gt, ge in the operands' common dtype."""
    values = arguments(node)
    pair = (values["self"], values["other"])
    left, right = (_example(item) for item in pair)
    return emit_compare(node, pair, CompareOp[base_name(node).upper()], torch.result_type(left, right), lowering)


def _example(value: object) -> torch.Tensor | bool | int | float:
    """What decides on the common dtype."""
    if isinstance(value, Node):
        return tensor_of(value) if is_tensor(value) else 1
    assert isinstance(value, (bool, int, float)), value
    return value


def lower_logic(node: Node, lowering: Lowering) -> Lowered:
    """logical_and, logical_or, logical_xor of operands of any dtypes."""
    values = arguments(node)
    pair = (values["self"], values["other"])
    dtypes = {tensor_of(item).dtype for item in pair if isinstance(item, Node)}
    return emit_compare(node, pair, _LOGIC[base_name(node)], dtypes.pop() if len(dtypes) == 1 else torch.bool, lowering)


def lower_not(node: Node, lowering: Lowering) -> Lowered:
    """logical_not, and bitwise_not of bools and integers."""
    source = node_argument(arguments(node), "self")
    dtype = tensor_of(source).dtype
    if base_name(node) == "logical_not" or dtype is torch.bool:
        return emit_compare(node, (source, source), CompareOp.LOGICAL_NAND, dtype, lowering)
    sizes = lowering.dims(tensor_of(node).shape)
    views = {"a": operand(lowering, source, dtype, sizes), "b": operand(lowering, -1, torch.int32, sizes)}
    attrs = {"op": BinaryOp.BITWISE_XOR, "alpha": 1.0}
    emit(lowering, "elementwise_binary", lowering.new(node), sizes, views, attrs, node=node)
    return Lowered((node,), ("elementwise_binary",))


def lower_isnan(node: Node, lowering: Lowering) -> Lowered:
    """x != x."""
    source = node_argument(arguments(node), "self")
    return emit_compare(node, (source, source), CompareOp.NE, tensor_of(source).dtype, lowering)


def lower_isinf(node: Node, lowering: Lowering) -> Lowered:
    """x == inf or x == -inf."""
    source = node_argument(arguments(node), "self")
    dtype, sizes = tensor_of(source).dtype, lowering.dims(tensor_of(node).shape)
    if not dtype.is_floating_point:
        lowering.bind_view(node, operand(lowering, False, torch.bool, sizes))
        return Lowered((node,), ())
    halves = {}
    for slot, limit in (("a", math.inf), ("b", -math.inf)):
        y = temporary(lowering, f"{node.name}.{slot}", lowering.device_dtype(torch.bool), sizes)
        views = {"a": lowering.view(source), "b": operand(lowering, limit, dtype, sizes)}
        emit(lowering, "elementwise_compare", y, sizes, views, {"op": CompareOp.EQ}, node=node)
        halves[slot] = lowering.dense_view(y)
    y = lowering.new(node)
    emit(lowering, "elementwise_compare", y, sizes, halves, {"op": CompareOp.LOGICAL_OR}, node=node)
    return Lowered((node,), ("elementwise_compare",))


def emit_compare(
    node: Node, pair: tuple[object, object], op: CompareOp, dtype: torch.dtype, lowering: Lowering
) -> Lowered:
    """One elementwise_compare call of operands in this dtype; of int8 in int32."""
    if dtype is torch.int8:
        for number in (number_of(lowering, item) for item in pair):
            if number is not None:
                element(number, DType.I8)  # torch wraps others around
        dtype = torch.int32
    sizes = lowering.dims(tensor_of(node).shape)
    views = {slot: operand(lowering, item, dtype, sizes) for slot, item in zip("ab", pair, strict=True)}
    y = lowering.new(node)
    emit(lowering, "elementwise_compare", y, sizes, views, {"op": op}, node=node)
    return Lowered((node,), ("elementwise_compare",))


def lower_where(node: Node, lowering: Lowering) -> Lowered:
    """where and masked_fill, with numbers and broadcasting."""
    values, value = arguments(node), tensor_of(node)
    if base_name(node) == "masked_fill":
        condition, first, second = values["mask"], values["value"], values["self"]
    else:
        condition, first, second = values["condition"], values["self"], values["other"]
    assert isinstance(condition, Node)
    check_dtype("where", lowering.device_dtype(value.dtype), node)
    sizes = lowering.dims(value.shape)
    views = {
        "condition": broadcast(cast(lowering, condition, torch.bool), sizes),
        "a": operand(lowering, first, value.dtype, sizes),
        "b": operand(lowering, second, value.dtype, sizes),
    }
    emit(lowering, "where", lowering.new(node), sizes, views, {}, node=node)
    return Lowered((node,), ("where",))


def lower_triangle(node: Node, lowering: Lowering) -> Lowered:
    """tril and triu: what lies on this side of a diagonal, by its row and column; 0 elsewhere."""
    values, value = arguments(node), tensor_of(node)
    diagonal, lower = values["diagonal"], base_name(node) == "tril"
    if not isinstance(diagonal, int):
        raise Unsupported(f"{op_name(node)} of diagonal {diagonal}; need a number")
    check_dtype("where", lowering.device_dtype(value.dtype), node)
    sizes = lowering.dims(value.shape)
    tables = {}
    for axis, start in ((-2, diagonal), (-1, 0)):
        tensor = temporary(lowering, f"{node.name}.place", DType.I32, sizes[axis:][:1])
        lowering.call("arange", {"y": tensor}, {"start": start, "step": 1}, node=node)
        tables[axis] = View(tensor, ZERO, (sizes[axis], *[ONE] * (-1 - axis)), (ONE, *[ZERO] * (-1 - axis)))
    inside = temporary(lowering, f"{node.name}.inside", DType.U8, sizes[-2:])
    views = {"a": broadcast(tables[-1], sizes[-2:]), "b": broadcast(tables[-2], sizes[-2:])}
    op = CompareOp.LE if lower else CompareOp.GE
    emit(lowering, "elementwise_compare", inside, sizes[-2:], views, {"op": op}, node=node)
    views = {
        "condition": broadcast(lowering.dense_view(inside), sizes),
        "a": lowering.view(node_argument(values, "self")),
        "b": operand(lowering, 0, value.dtype, sizes),
    }
    emit(lowering, "where", lowering.new(node), sizes, views, {}, node=node)
    return Lowered((node,), ("arange", "elementwise_compare", "where"))


def lower_cast(node: Node, lowering: Lowering) -> Lowered:
    """_to_copy, to and their edge twin: nothing where the device holds both dtypes alike."""
    source = node_argument(arguments(node), "self")
    before = lowering.view(source)
    view = cast(lowering, source, tensor_of(node).dtype)
    lowering.bind_view(node, view)
    return Lowered((node,), () if view == before else ("strided_copy",))


_WHERES = (
    "aten.where.self",
    "aten.where.Scalar",
    "aten.where.ScalarSelf",
    "aten.where.ScalarOther",
    "aten.masked_fill.Scalar",
    "aten.masked_fill.Tensor",
)
RULES: dict[str, Callable[[Node, Lowering], Lowered]] = {
    **{f"aten.{op.name.lower()}.{kind}": lower_compare for op in list(CompareOp)[:6] for kind in ("Tensor", "Scalar")},
    **{f"aten.{name}.default": lower_logic for name in _LOGIC},
    **dict.fromkeys(_WHERES, lower_where),
    **dict.fromkeys(CASTS, lower_cast),
    "aten.logical_not.default": lower_not,
    "aten.bitwise_not.default": lower_not,
    "aten.tril.default": lower_triangle,
    "aten.triu.default": lower_triangle,
    "aten.isnan.default": lower_isnan,
    "aten.isinf.default": lower_isinf,
}

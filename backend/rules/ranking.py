"""topk, by the place of each element among its row's: how many others come before it.

Equal elements keep their order, and NaN is the largest, as in PyTorch. Made for the few experts of a mixture: the
comparisons of a row take the square of its length.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels._generated.signatures import CompareOp, ReduceOp
from ..kernels.dtypes import DType
from ..lowering.graph import arguments, node_argument, static_dim, tensor_of
from ..lowering.indices import elementwise, emit_gather, emit_scatter
from ..lowering.lowering import Lowered, Lowering
from ..lowering.shapes import insert, narrow, permute
from ..lowering.values import FLOATS, broadcast, dense, emit, scalar, temporary
from ..lowering.view import View
from ..lowering.view_changes import axis_of
from ..program import Dim
from .rows import row_attrs


def lower_topk_parent(node: Node, lowering: Lowering) -> Lowered:
    """topk has two results, which getitem picks."""
    source = node_argument(arguments(node), "self")
    static_dim(source, axis_of(arguments(node)["dim"], max(tensor_of(source).dim(), 1)))
    if not tensor_of(source).dim() or lowering.device_dtype(tensor_of(source).dtype) not in (*FLOATS, DType.I32):
        raise Unsupported(f"{node.name}: topk of {tensor_of(source).dtype}, rank {tensor_of(source).dim()}; "
                          "offered floats, int32 and int64 of rank 1 and more")  # fmt: skip
    return Lowered((node,), ())


def lower_topk(node: Node, lowering: Lowering) -> Lowered:
    """The first k elements (result 0), or their indices (1)."""
    parent, result = node.args
    assert isinstance(parent, Node)
    lower_topk_parent(parent, lowering)
    values = arguments(parent)
    x = lowering.view(node_argument(values, "self"))
    axis, count = axis_of(values["dim"], len(x.sizes)), lowering.size(values["k"])
    others = [i for i in range(len(x.sizes)) if i != axis]
    x = dense(lowering, permute(x, [*others, axis]), f"{parent.name}.rows")
    last = len(others)
    back = [*range(axis), last, *range(axis, last)]
    (order,) = lowering.once(("order", parent), lambda: (_order(parent, x, bool(values["largest"]), lowering),))
    first = narrow(lowering.dense_view(order), last, Dim(0), count, multiply=lowering.multiply)
    if result == 1:
        lowering.bind_view(node, permute(first, back))
        return Lowered((node,), ("scatter",))
    y = lowering.new(node, first.sizes)
    emit_gather(node, elementwise(x, last, first), y, lowering)
    lowering.bind_view(node, permute(lowering.dense_view(y), back))
    return Lowered((node,), ("gather",))


RULES: dict[str, Callable[[Node, Lowering], Lowered]] = {
    "aten.topk.default": lower_topk_parent,
    "getitem of aten.topk.default": lower_topk,
}
WHOLE: tuple[torch._ops.OpOverload, ...] = ()


def _order(node: Node, x: View, largest: bool, lowering: Lowering) -> int:
    """The indices of each row's elements, i32 of x's sizes, in the order in which topk gives the elements."""
    before = _before(node, x, largest, lowering)
    ones = temporary(lowering, f"{node.name}.counted", DType.I32, before.sizes)
    lowering.copy(before, lowering.dense_view(ones), name=f"{node.name}.counted")
    rows, attrs = row_attrs(lowering.dense_view(ones), 1, lowering, name=node.name)
    rank = temporary(lowering, f"{node.name}.rank", DType.I32, x.sizes)
    lowering.call("reduce_rows", {"x": rows, "y": rank}, {"op": ReduceOp.SUM, **attrs}, node=node)
    order = temporary(lowering, f"{node.name}.order", DType.I32, x.sizes)
    target, last = lowering.dense_view(order), len(x.sizes) - 1
    places = _constant(lowering, "places", np.arange(x.sizes[-1].base, dtype=np.int32))
    emit_scatter(node, broadcast(places, x.sizes), elementwise(target, last, lowering.dense_view(rank)), lowering)
    return order


def _before(node: Node, x: View, largest: bool, lowering: Lowering) -> View:
    """Whether element j comes before element i: u8 [..., i, j]."""
    length = x.sizes[-1].base
    sizes = (*x.sizes[:-1], Dim(length), Dim(length))
    nan = _nan(node, x, lowering)
    key = x if nan is None else _where(node, nan, _number(lowering, float("inf"), x), x, lowering)
    ops = (CompareOp.GT, CompareOp.GE) if largest else (CompareOp.LT, CompareOp.LE)
    strictly, or_equal = (_pairs(node, op, key, sizes, lowering) for op in ops)
    earlier = _constant(lowering, "earlier", np.tri(length, k=-1, dtype=np.uint8))
    found = _where(node, broadcast(earlier, sizes), or_equal, strictly, lowering)
    if nan is None:
        return found
    differ = _pairs(node, CompareOp.NE, nan, sizes, lowering)
    first = insert(nan, len(x.sizes) - (1 if largest else 0))
    return _where(node, differ, broadcast(first, sizes), found, lowering)


def _nan(node: Node, x: View, lowering: Lowering) -> View | None:
    """Which elements are NaN, u8; None of integers."""
    if lowering.builder.tensor_info(x.tensor).dtype not in FLOATS:
        return None
    y = temporary(lowering, f"{node.name}.nan", DType.U8, x.sizes)
    emit(lowering, "elementwise_compare", y, x.sizes, {"a": x, "b": x}, {"op": CompareOp.NE}, node=node)
    return lowering.dense_view(y)


def _pairs(node: Node, op: CompareOp, x: View, sizes: tuple[Dim, ...], lowering: Lowering) -> View:
    """x_j op x_i as [..., i, j]."""
    y = temporary(lowering, f"{node.name}.{op.name.lower()}", DType.U8, sizes)
    rank = len(x.sizes)
    views = {"a": broadcast(insert(x, rank - 1), sizes), "b": broadcast(insert(x, rank), sizes)}
    emit(lowering, "elementwise_compare", y, sizes, views, {"op": op}, node=node)
    return lowering.dense_view(y)


def _where(node: Node, condition: View, a: View, b: View, lowering: Lowering) -> View:
    y = temporary(lowering, f"{node.name}.where", lowering.builder.tensor_info(b.tensor).dtype, b.sizes)
    emit(lowering, "where", y, b.sizes, {"condition": condition, "a": a, "b": b}, {}, node=node)
    return lowering.dense_view(y)


def _number(lowering: Lowering, value: float, like: View) -> View:
    return broadcast(scalar(lowering, value, lowering.builder.tensor_info(like.tensor).dtype), like.sizes)


def _constant(lowering: Lowering, name: str, data: np.ndarray) -> View:
    """A constant that follows from its length."""
    dtype = DType.U8 if data.dtype == np.uint8 else DType.I32
    make = lambda: (lowering.builder.constant(f"{name}_{len(data)}", dtype, data.shape, data=data),)  # noqa: E731
    return lowering.dense_view(lowering.once((name, data.shape), make)[0])

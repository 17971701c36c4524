"""Operators on rows: softmax, cumsum, reductions over any dimensions, argmax, layer_norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels._generated.signatures import SIGNATURES, ArgReduceOp, ReduceOp, TopkOp
from ..kernels.dtypes import DType
from ..lowering.graph import arguments, node_argument, op_name, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.shapes import permute
from ..lowering.values import FLOATS, bind_empty, cast, check_dtype, dense, offered_dtypes, scalar, temporary, whole
from ..lowering.view import ONE, ZERO, View, collapse, dense_strides
from ..lowering.view_changes import axes_of
from ..program import Dim

_REDUCTIONS = {
    "sum": ReduceOp.SUM,
    "mean": ReduceOp.MEAN,
    "amax": ReduceOp.AMAX,
    "amin": ReduceOp.AMIN,
    "max": ReduceOp.AMAX,
    "min": ReduceOp.AMIN,
    "any": ReduceOp.AMAX,
    "all": ReduceOp.AMIN,
}
_ARGS = {
    "argmax": ArgReduceOp.ARGMAX,
    "argmin": ArgReduceOp.ARGMIN,
    "max": ArgReduceOp.ARGMAX,
    "min": ArgReduceOp.ARGMIN,
}
_LEVELS = 2  # of rows
PIECE = SIGNATURES["topk_rows"].constants["PIECE"]  # of a row, that one workgroup sorts
MOST_FIRST = PIECE // 2  # of a longer row: what its pieces give is at most half as long


def row_attrs(view: View, n_inner: int, lowering: Lowering, *, name: str) -> tuple[int, dict[str, Dim]]:
    """The tensor and attributes of rows over the last n_inner dimensions; a copy where they do not lie as rows."""
    lead = len(view.sizes) - n_inner
    outer = collapse(view.sizes[:lead], view.strides[:lead], multiply=lowering.multiply)
    inner = collapse(view.sizes[lead:], view.strides[lead:], multiply=lowering.multiply)
    if len(outer) > _LEVELS or len(inner) > 1 or (inner and inner[0][1] != ONE):
        return row_attrs(dense(lowering, view, f"{name}.rows"), n_inner, lowering, name=name)
    (_, outer_stride), (inner_rows, inner_stride) = [(ONE, ZERO)] * (_LEVELS - len(outer)) + [
        (size, stride) for size, stride in outer
    ]
    return view.tensor, {
        "row_length": lowering.product(view.sizes[lead:]),
        "x_offset": view.offset,
        "x_inner_rows": inner_rows,
        "x_outer_stride": outer_stride,
        "x_inner_stride": inner_stride,
    }


def first_of_rows(node: Node, x: View, k: int, op: TopkOp, lowering: Lowering, *, n_inner: int = 1) -> tuple[int, int]:
    """The first k elements of each row over the last n_inner dimensions, and their indices, i32: both [..., k].

    Those of each piece of a long row come first, then those of them all.
    """
    dtype, lead = lowering.builder.tensor_info(x.tensor).dtype, x.sizes[: len(x.sizes) - n_inner]
    tensor, attrs = row_attrs(x, n_inner, lowering, name=node.name)
    slots = {"x": tensor}
    while True:
        n_pieces = -(-attrs["row_length"].base // PIECE)
        sizes = (*lead, Dim(n_pieces * k))
        y = temporary(lowering, f"{node.name}.first", dtype, sizes)
        index = temporary(lowering, f"{node.name}.index", DType.I32, sizes)
        lowering.call("topk_rows", {**slots, "y": y, "index": index}, {"op": op, "k": k, **attrs}, node=node)
        if n_pieces == 1:
            return y, index
        tensor, attrs = row_attrs(lowering.dense_view(y), 1, lowering, name=node.name)
        slots = {"x": tensor, "from": index}


def lower_softmax(node: Node, lowering: Lowering) -> Lowered:
    """softmax and log_softmax over one dimension."""
    values = arguments(node)
    dtype = tensor_of(node).dtype
    view = cast(lowering, node_argument(values, "self"), dtype)
    if ZERO in view.sizes:
        return bind_empty(lowering, node)
    x, attrs, y = _along(node, view, values["dim"], lowering)
    logarithm = int("log" in op_name(node))
    lowering.call("softmax_rows", {"x": x, "y": y}, {"logarithm": logarithm, **attrs}, node=node)
    return Lowered((node,), ("softmax_rows",))


def lower_cumsum(node: Node, lowering: Lowering) -> Lowered:
    """cumsum over one dimension."""
    values = arguments(node)
    dtype = tensor_of(node).dtype
    check_dtype("cumsum_rows", lowering.device_dtype(dtype), node)
    view = cast(lowering, node_argument(values, "self"), dtype)
    if ZERO in view.sizes:
        return bind_empty(lowering, node)
    x, attrs, y = _along(node, view, values["dim"], lowering)
    lowering.call("cumsum_rows", {"x": x, "y": y}, attrs, node=node)
    return Lowered((node,), ("cumsum_rows",))


def _along(node: Node, view: View, dim: object, lowering: Lowering) -> tuple[int, dict[str, Dim], int]:
    """Rows along one dimension of a view: their tensor and attributes, and the dense rows that are the node's value."""
    chosen = axes_of(dim, len(view.sizes)) if view.sizes else []
    order = _last(len(view.sizes), chosen)
    moved = permute(view, order)
    x, attrs = row_attrs(moved, len(chosen), lowering, name=node.name)
    y = lowering.new(node, moved.sizes)
    back = View(y, ZERO, moved.sizes, dense_strides(moved.sizes, lowering.multiply))
    lowering.bind_view(node, permute(back, [order.index(axis) for axis in range(len(order))]))
    return x, attrs, y


def lower_reduction(node: Node, lowering: Lowering) -> Lowered:
    """sum, mean, amax, amin, any and all over any dimensions; max and min of all elements."""
    return _reduce(node, node, lowering)


def _reduce(node: Node, source: Node, lowering: Lowering) -> Lowered:
    """node: whose value it is. source: the operator, the same node or one that gives several results."""
    values, name, result = arguments(source), _name(source), tensor_of(node).dtype
    _check_reduction(source, name, result, lowering)
    view = cast(lowering, node_argument(values, "self"), result)
    dims = _dims(values.get("dim"), len(view.sizes))
    x, attrs = row_attrs(permute(view, _last(len(view.sizes), dims)), len(dims), lowering, name=node.name)
    y = lowering.new(node)
    lowering.call("reduce_rows", {"x": x, "y": y}, {"op": _REDUCTIONS[name], **attrs}, node=node)
    return Lowered((node,), ("reduce_rows",))


def _check_reduction(node: Node, name: str, result: torch.dtype, lowering: Lowering) -> None:
    if name in ("any", "all") and result is not torch.bool:
        raise Unsupported(f"{op_name(node)} of {result}; offered bools")
    fewer = {"mean": FLOATS, "sum": (*FLOATS, DType.I32)}
    check_dtype("reduce_rows", lowering.device_dtype(result), node, fewer.get(name, ()))


def lower_argmax(node: Node, lowering: Lowering) -> Lowered:
    """argmax and argmin over one dimension, or over all elements."""
    return _argmax(node, node, lowering)


def _argmax(node: Node, source: Node, lowering: Lowering) -> Lowered:
    values = arguments(source)
    x_node = node_argument(values, "self")
    dtype = tensor_of(x_node).dtype
    known = lowering.device_dtype(dtype) in offered_dtypes("argmax_rows", "x")
    view = cast(lowering, x_node, dtype if known else torch.int32)
    dims, op = _dims(values["dim"], len(view.sizes)), _ARGS[_name(source)]
    rows = permute(view, _last(len(view.sizes), dims))
    length = lowering.product(rows.sizes[len(rows.sizes) - len(dims) :])
    if op is ArgReduceOp.ARGMAX and not length.terms and length.base > PIECE:  # one workgroup would take its time
        _, y = first_of_rows(node, rows, 1, TopkOp.LARGEST, lowering, n_inner=len(dims))
        sizes = lowering.dims(tensor_of(node).shape)
        lowering.bind_view(node, View(y, ZERO, sizes, dense_strides(sizes, lowering.multiply)))
        return Lowered((node,), ("topk_rows",))
    x, attrs = row_attrs(rows, len(dims), lowering, name=node.name)
    y = lowering.new(node)
    lowering.call("argmax_rows", {"x": x, "y": y}, {"op": op, **attrs}, node=node)
    return Lowered((node,), ("argmax_rows",))


def lower_extreme_parent(node: Node, lowering: Lowering) -> Lowered:
    """max and min over one dimension have two results, which getitem picks."""
    _check_reduction(node, _name(node), tensor_of(node_argument(arguments(node), "self")).dtype, lowering)
    return Lowered((node,), ())


def lower_extreme(node: Node, lowering: Lowering) -> Lowered:
    """The largest or smallest elements (result 0), or their indices (1)."""
    parent, index = node.args
    assert isinstance(parent, Node)
    lower_extreme_parent(parent, lowering)
    return _reduce(node, parent, lowering) if index == 0 else _argmax(node, parent, lowering)


def _name(node: Node) -> str:
    return op_name(node).split(".")[1]


def _dims(value: object, rank: int) -> list[int]:
    """Reduced dimensions in order; none given means all."""
    return sorted(set(axes_of(value, rank))) if value not in (None, [], ()) and rank else list(range(rank))


def _last(rank: int, dims: Sequence[int]) -> list[int]:
    """The order that moves these dimensions to the end."""
    return [axis for axis in range(rank) if axis not in dims] + list(dims)


def lower_layer_norm(node: Node, lowering: Lowering) -> Lowered:
    """layer_norm; a bias without a weight has ones for one."""
    return _layer_norm(node, node, lowering)


def _layer_norm(node: Node, source: Node, lowering: Lowering) -> Lowered:
    values, dtype = arguments(source), tensor_of(node).dtype
    shape, eps = values["normalized_shape"], values["eps"]
    assert isinstance(shape, (list, tuple))
    assert isinstance(eps, float)
    view = cast(lowering, node_argument(values, "input"), dtype)
    if ZERO in view.sizes:
        return bind_empty(lowering, node)
    x, attrs = row_attrs(view, len(shape), lowering, name=node.name)
    length = attrs["row_length"]
    affine = {
        slot: whole(lowering, cast(lowering, item, dtype), f"{node.name}.{slot}")
        for slot in ("weight", "bias")
        if isinstance(item := values[slot], Node)
    }
    if "bias" in affine and "weight" not in affine:
        ones = View(scalar(lowering, 1, lowering.device_dtype(dtype)).tensor, ZERO, (length,), (ZERO,))
        affine = {"weight": whole(lowering, ones, f"{node.name}.ones"), **affine}
    lowering.call("layer_norm", {"x": x, **affine, "y": lowering.new(node)}, {"eps": eps, **attrs}, node=node)
    return Lowered((node,), ("layer_norm",))


def lower_layer_norm_parent(node: Node, lowering: Lowering) -> Lowered:
    """native_layer_norm, whose results getitem picks; of the mean and the deviation nothing may be left."""
    for user in node.users:
        if op_name(user) == "getitem" and user.args[1] != 0:
            raise Unsupported(f"result {user.args[1]} of {op_name(node)}; offered 0, the normalized tensor")
    lowering.device_dtype(tensor_of(node_argument(arguments(node), "input")).dtype)
    return Lowered((node,), ())


def lower_layer_norm_result(node: Node, lowering: Lowering) -> Lowered:
    """The normalized tensor."""
    parent = node.args[0]
    assert isinstance(parent, Node)
    lower_layer_norm_parent(parent, lowering)
    return _layer_norm(node, parent, lowering)


_ALL = ("default", "dim", "dims", "dim_IntList")
WHOLE = (torch.ops.aten.layer_norm.default,)
RULES: dict[str, Callable[[Node, Lowering], Lowered]] = {
    **{f"aten.{name}.{kind}": lower_reduction for name in _REDUCTIONS for kind in _ALL if name not in _ARGS},
    **dict.fromkeys(("aten.max.default", "aten.min.default"), lower_reduction),
    **dict.fromkeys(("aten.max.dim", "aten.min.dim"), lower_extreme_parent),
    **dict.fromkeys(("getitem of aten.max.dim", "getitem of aten.min.dim"), lower_extreme),
    **dict.fromkeys(("aten.argmax.default", "aten.argmin.default"), lower_argmax),
    **dict.fromkeys(
        ("aten._softmax.default", "aten.softmax.int", "aten._log_softmax.default", "aten.log_softmax.int"),
        lower_softmax,
    ),
    "aten.cumsum.default": lower_cumsum,
    "aten.layer_norm.default": lower_layer_norm,
    "aten.native_layer_norm.default": lower_layer_norm_parent,
    "getitem of aten.native_layer_norm.default": lower_layer_norm_result,
}

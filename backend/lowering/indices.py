"""Index tensors: where the elements lie that one or several of them name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels._generated.signatures import BinaryOp
from ..kernels.dtypes import DType
from ..program import Dim
from .aten import ARANGES, STILL
from .copying import KERNEL_RANK
from .graph import arguments, op_name, tensor_of
from .lowering import Lowering
from .shapes import permute
from .values import FLOATS, broadcast, check_dtype, dense, emit, placed, scalar, size_scalar, temporary
from .view import ONE, ZERO, View, add, collapse, scale

_NOWHERE = -(2**31)  # what no operator reads or writes, from whichever end it counts
_MAX_ALPHA = 2**24  # elementwise_binary's alpha is an f32


@dataclass(frozen=True, slots=True)
class Reach:
    """Elements of x by an index: x over the result's sizes, still along the indexed axis, of this step and length."""

    x: View
    index: View
    stride: Dim
    length: Dim

    @property
    def sizes(self) -> tuple[Dim, ...]:
        """Of the result of a gather, or of what a scatter writes."""
        return self.x.sizes


def index_view(node: Node, lowering: Lowering) -> View:
    """An index tensor's value. Raises Unsupported for masks."""
    if tensor_of(node).dtype in (torch.bool, torch.uint8):
        raise Unsupported(f"index {node.name} is a mask: its result has no static size; offered integers")
    return lowering.guarded(lowering.view(node))


def emit_check(
    user: Node,
    view: View,
    bounds: tuple[Dim, Dim],
    lowering: Lowering,
    *,
    what: str,
    wrap: Dim = ZERO,
    outside: Dim | int = _NOWHERE,
) -> View:
    """The same indices, those outside reported and replaced by `outside`. wrap: is added to negative ones."""
    low, high = bounds

    def make() -> tuple[int, ...]:
        y = temporary(lowering, f"{user.name}.index", DType.I32, view.sizes)
        args, attrs = placed(lowering, view.sizes, {"x": lowering.guarded(view)}, node=user)
        attrs |= {"low": low, "high": high, "wrap": wrap, "outside": outside, "call": 0}
        slots = {**args, "y": y, "faults": lowering.builder.faults()}
        lowering.builder.call("check_index", slots, attrs, name=f"{user.name}: {what}")
        if outside == _NOWHERE:
            lowering.guard(view, lowering.dense_view(y))
        return (y,)

    return lowering.dense_view(lowering.once(("checked", view, low, high, wrap, outside), make)[0])


def along(x: View, axis: int, index: View, count: Dim | None = None) -> Reach:
    """A one-dimensional index of one axis. count: what the result has there; default: all of the index."""
    rank = len(x.sizes)
    size, stride = (index.sizes[0], index.strides[0]) if index.sizes else (ONE, ZERO)
    sizes = (*x.sizes[:axis], size if count is None else count, *x.sizes[axis + 1 :])
    strides = [ZERO] * rank
    strides[axis] = stride
    return Reach(
        _still(x, axis, sizes),
        View(index.tensor, index.offset, sizes, tuple(strides)),
        x.strides[axis],
        x.sizes[axis],
    )


def elementwise(x: View, axis: int, index: View) -> Reach:
    """An index for every element of the result, as gather and scatter have it."""
    return Reach(_still(x, axis, index.sizes), index, x.strides[axis], x.sizes[axis])


def _still(x: View, axis: int, sizes: Sequence[Dim]) -> View:
    return View(x.tensor, x.offset, tuple(sizes), (*x.strides[:axis], ZERO, *x.strides[axis + 1 :]))


def by_indices(node: Node, x: View, lowering: Lowering) -> Reach:
    """x[..., i, j, ...]: index tensors, broadcast together. Where others lie between them they come first."""
    given = arguments(node)["indices"]
    assert isinstance(given, (list, tuple))
    used = {axis: index for axis, index in enumerate(given) if isinstance(index, Node)}
    axes, rank = list(used), len(x.sizes)
    views = [index_view(index, lowering) for index in used.values()]
    if axes != list(range(axes[0], axes[-1] + 1)):
        x = permute(x, axes + [axis for axis in range(rank) if axis not in used])
        axes = list(range(len(axes)))
    first, last = axes[0], axes[-1] + 1
    shape = _common_sizes([view.sizes for view in views])
    if len(views) == 1:
        index, stride, length = views[0], x.strides[first], x.sizes[first]
    else:
        part = View(x.tensor, x.offset, x.sizes[first:last], x.strides[first:last])
        counted = [_wrapped(node, *item, part, lowering) for item in zip(range(len(views)), used.values(), strict=True)]
        index = _linear(node, counted, part, shape, lowering=lowering)
        stride, length = ONE, _span(part, lowering)
    sizes = (*x.sizes[:first], *shape, *x.sizes[last:])
    still = (*x.strides[:first], *(ZERO for _ in shape), *x.strides[last:])
    steps = (*(ZERO for _ in x.sizes[:first]), *broadcast(index, shape).strides, *(ZERO for _ in x.sizes[last:]))
    return Reach(View(x.tensor, x.offset, sizes, still), View(index.tensor, index.offset, sizes, steps), stride, length)


def _common_sizes(shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    rank = max(len(shape) for shape in shapes)
    padded = [(ONE,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in sizes if size != ONE), ONE) for sizes in zip(*padded, strict=True))


def _span(part: View, lowering: Lowering) -> Dim:
    """Elements from the first to the last of some dimensions."""
    span = ONE
    for size, stride in zip(part.sizes, part.strides, strict=True):
        span = add(span, lowering.multiply(add(size, -1), stride))
    return span


def _linear(node: Node, views: Sequence[View], part: View, shape: Sequence[Dim], *, lowering: Lowering) -> View:
    """sum(i * stride) over the indexed dimensions, each i counted from the beginning."""
    total: View | None = None
    order = sorted(range(len(views)), key=lambda number: part.strides[number] != ONE)  # the one without a factor first
    for number in order:
        stride, view = part.strides[number], views[number]
        if stride == ZERO:
            continue
        if total is None and stride == ONE:
            total = view
        elif total is not None and not stride.terms and abs(stride.base) <= _MAX_ALPHA:
            total = _arithmetic(node, BinaryOp.ADD, total, view, float(stride.base), lowering=lowering)
        else:
            step = broadcast(size_scalar(lowering, stride, node=node), view.sizes)
            scaled = _arithmetic(node, BinaryOp.MUL, view, step, lowering=lowering)
            total = scaled if total is None else _arithmetic(node, BinaryOp.ADD, total, scaled, lowering=lowering)
    return broadcast(scalar(lowering, 0, DType.I32) if total is None else total, shape)


def _wrapped(node: Node, axis: int, index: Node, part: View, lowering: Lowering) -> View:
    """An index counted from the beginning. One that a call has found outside becomes one outside all of `part`."""
    view, size = lowering.view(index), part.sizes[axis]
    if _is_natural(index) or part.strides[axis] == ZERO:
        return view
    if lowering.guarded(view) != view:
        beyond = lowering.quotient(add(add(_span(part, lowering), part.strides[axis]), -1), part.strides[axis])
        bounds = scale(size, -1), add(size, -1)
        return emit_check(node, view, bounds, lowering, what="counted from 0", wrap=size, outside=beyond)
    length = broadcast(size_scalar(lowering, size, node=node), view.sizes)
    return _arithmetic(node, BinaryOp.REMAINDER, view, length, lowering=lowering)


def _arithmetic(node: Node, op: BinaryOp, a: View, b: View, alpha: float = 1.0, *, lowering: Lowering) -> View:
    sizes = _common_sizes([a.sizes, b.sizes])
    y = temporary(lowering, f"{node.name}.index", DType.I32, sizes)
    pair = {"a": broadcast(a, sizes), "b": broadcast(b, sizes)}
    emit(lowering, "elementwise_binary", y, sizes, pair, {"op": op, "alpha": alpha}, node=node)
    return lowering.dense_view(y)


def _is_natural(node: Node) -> bool:
    """Whether an index is an arange from 0 or later on, in whatever shape."""
    while op_name(node) in STILL and isinstance(node.args[0], Node):
        node = node.args[0]
    if op_name(node) not in ARANGES:
        return False
    values = arguments(node)
    start, step = values.get("start", 0), values.get("step", 1)
    return isinstance(start, int) and start >= 0 and isinstance(step, int) and step > 0


def emit_gather(node: Node, reach: Reach, y: int, lowering: Lowering) -> None:
    """y = x at the index."""
    check_dtype("gather", lowering.builder.tensor_info(y).dtype, node)
    views = {"x": reach.x, "index": reach.index}
    args, attrs = placed(lowering, reach.sizes, views, fixed=("x",), node=node)
    axis = {"axis_stride": reach.stride, "axis_length": reach.length}
    lowering.call("gather", {**args, "y": y}, {**attrs, **axis}, node=node)


def emit_scatter(node: Node, x: View, reach: Reach, lowering: Lowering) -> None:
    """Writes x, broadcast to what the index reaches, into the tensor that reach was made of."""
    target = lowering.builder.tensor_info(reach.x.tensor).dtype
    check_dtype("scatter", target, node)
    source = lowering.builder.tensor_info(x.tensor).dtype
    assert source is target or {source, target} <= set(FLOATS), f"{node.name}: {source} into {target}"
    views = {"x": broadcast(x, reach.sizes), "index": reach.index, "y": reach.x}
    args, attrs = placed(lowering, reach.sizes, views, fixed=("y",), node=node)
    axis = {"axis_stride": reach.stride, "axis_length": reach.length}
    lowering.call("scatter", args, {**attrs, **axis}, node=node)


def reachable(view: View, reach: Reach, name: str, lowering: Lowering) -> View:
    """The view, or a dense copy of it where its dimensions do not merge into the kernel's."""
    space = collapse(reach.sizes, reach.x.strides, reach.index.strides, multiply=lowering.multiply)
    return view if len(space) <= KERNEL_RANK else dense(lowering, view, name)

"""Operators that put elements side by side or repeat them, and tensors that come from nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..lowering.aten import ARANGES
from ..lowering.graph import arguments, node_argument, op_name, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.shapes import narrow, remove, reverse
from ..lowering.values import bind_empty, broadcast, cast, check_dtype, operand
from ..lowering.view import ONE, ZERO, View, add, dense_strides
from ..lowering.view_changes import axis_of
from ..program import Dim


def lower_cat(node: Node, lowering: Lowering) -> Lowered:
    """cat: each operand copied into its place; operands of other dtypes are cast on the way."""
    values = arguments(node)
    tensors = values["tensors"]
    assert isinstance(tensors, (list, tuple))
    axis = axis_of(values["dim"], tensor_of(node).dim())
    if ZERO in lowering.dims(tensor_of(node).shape):
        return bind_empty(lowering, node)
    target = lowering.dense_view(lowering.new(node))
    start = ZERO
    for item in tensors:
        assert isinstance(item, Node)
        if tensor_of(item).dim() != len(target.sizes):
            continue  # torch lets an empty tensor of rank 1 stand anywhere
        view = cast(lowering, item, tensor_of(node).dtype)
        place = narrow(target, axis, start, view.sizes[axis], multiply=lowering.multiply)
        start = add(start, view.sizes[axis])
        if ZERO not in view.sizes:
            lowering.copy(view, place, name=f"{node.name}.{item.name}")
    return Lowered((node,), ("strided_copy",))


def lower_stack(node: Node, lowering: Lowering) -> Lowered:
    """stack: cat along a new dimension."""
    values = arguments(node)
    tensors = values["tensors"]
    assert isinstance(tensors, (list, tuple))
    axis = axis_of(values["dim"], tensor_of(node).dim())
    target = lowering.dense_view(lowering.new(node))
    for index, item in enumerate(tensors):
        assert isinstance(item, Node)
        view = cast(lowering, item, tensor_of(node).dtype)
        place = narrow(target, axis, Dim(index), ONE, multiply=lowering.multiply)
        lowering.copy(view, remove(place, [axis]), name=f"{node.name}.{index}")
    return Lowered((node,), ("strided_copy",))


def lower_repeat(node: Node, lowering: Lowering) -> Lowered:
    """repeat: copied from strides of 0, or such a view itself where only dimensions of size 1 repeat."""
    values = arguments(node)
    view = lowering.view(node_argument(values, "self"))
    repeats = values["repeats"]
    assert isinstance(repeats, (list, tuple))
    counts = [lowering.size(count) for count in repeats]
    view = broadcast(view, (ONE,) * (len(counts) - len(view.sizes)) + view.sizes)
    if all(ONE in pair for pair in zip(counts, view.sizes, strict=True)):
        lowering.bind_view(node, broadcast(view, lowering.dims(tensor_of(node).shape)))
        return Lowered((node,), ())
    sizes, strides = [], []
    for count, size, stride in zip(counts, view.sizes, view.strides, strict=True):
        sizes += [count, size]
        strides += [ZERO, stride]
    return _copy_wide(node, View(view.tensor, view.offset, tuple(sizes), tuple(strides)), lowering)


def lower_repeat_interleave(node: Node, lowering: Lowering) -> Lowered:
    """repeat_interleave by a number, along one dimension or of all elements."""
    values = arguments(node)
    source = node_argument(values, "self")
    view = lowering.view(source)
    if values["dim"] is None:
        view = lowering.dense_view(lowering.operand(source, [lowering.product(view.sizes)]))
    axis = axis_of(values["dim"] or 0, len(view.sizes)) + 1
    sizes = (*view.sizes[:axis], lowering.size(values["repeats"]), *view.sizes[axis:])
    strides = (*view.strides[:axis], ZERO, *view.strides[axis:])
    return _copy_wide(node, View(view.tensor, view.offset, sizes, strides), lowering)


def _copy_wide(node: Node, source: View, lowering: Lowering) -> Lowered:
    """A copy into the node's dense tensor, seen with the sizes of source."""
    tensor = lowering.new(node)
    target = View(tensor, ZERO, source.sizes, dense_strides(source.sizes, lowering.multiply))
    lowering.copy(source, target, name=node.name)
    return Lowered((node,), ("strided_copy",))


def lower_flip(node: Node, lowering: Lowering) -> Lowered:
    """flip: negative strides."""
    values = arguments(node)
    view = lowering.view(node_argument(values, "self"))
    dims = values["dims"]
    assert isinstance(dims, (list, tuple))
    for axis in sorted({axis_of(dim, len(view.sizes)) for dim in dims} if view.sizes else ()):
        view = reverse(view, axis, multiply=lowering.multiply)
    lowering.bind_view(node, view)
    return Lowered((node,), ())


def lower_full(node: Node, lowering: Lowering) -> Lowered:
    """full, zeros, ones and their likes: one element, read with strides of 0."""
    values, tensor = arguments(node), tensor_of(node)
    given = [values[name] for name in ("fill_value", "value", "s") if name in values]
    value = given[0] if given else int("ones" in op_name(node))
    lowering.bind_view(node, operand(lowering, value, tensor.dtype, lowering.dims(tensor.shape)))
    return Lowered((node,), ())


def lower_arange(node: Node, lowering: Lowering) -> Lowered:
    """arange with integer start and step, of integers or floats."""
    values = arguments(node)
    start, step = (_whole(values.get(name, default), lowering) for name, default in (("start", 0), ("step", 1)))
    check_dtype("arange", lowering.device_dtype(tensor_of(node).dtype), node)
    y = lowering.new(node)
    lowering.call("arange", {"y": y}, {"start": start, "step": step}, node=node)
    return Lowered((node,), ("arange",))


def _whole(value: object, lowering: Lowering) -> Dim:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float):
        raise Unsupported(f"arange from or by {value}; need integers")
    return lowering.size(value)


_FULL = (
    "aten.full.default",
    "aten.full_like.default",
    "aten.zeros.default",
    "aten.zeros_like.default",
    "aten.ones.default",
    "aten.ones_like.default",
    "aten.new_zeros.default",
    "aten.new_ones.default",
    "aten.new_full.default",
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.new_empty.default",
    "aten.fill.Scalar",
    "aten.fill.Tensor",
    "aten.scalar_tensor.default",
    "dim_order_ops._empty_dim_order.default",
)
WHOLE = (torch.ops.aten.arange.default, torch.ops.aten.arange.start)
RULES: dict[str, Callable[[Node, Lowering], Lowered]] = {
    **dict.fromkeys(_FULL, lower_full),
    **dict.fromkeys(ARANGES, lower_arange),
    "aten.flip.default": lower_flip,
    "aten.cat.default": lower_cat,
    "aten.stack.default": lower_stack,
    "aten.repeat.default": lower_repeat,
    "aten.repeat_interleave.self_int": lower_repeat_interleave,
}

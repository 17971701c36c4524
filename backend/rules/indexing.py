"""Reading and writing at indices that lie in tensors, and writing into a slice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..lowering.graph import arguments, node_argument, op_name, tensor_of
from ..lowering.indices import Reach, along, by_indices, elementwise, emit_gather, emit_scatter, index_view, reachable
from ..lowering.lowering import Lowered, Lowering
from ..lowering.shapes import insert, narrow
from ..lowering.state import updatable
from ..lowering.values import broadcast, cast, check_dtype, emit, is_tensor, operand
from ..lowering.view import View
from ..lowering.view_changes import axis_of, first_index
from . import padding


def lower_gather(node: Node, lowering: Lowering) -> Lowered:
    """index_select and gather."""
    values = arguments(node)
    source = lowering.view(node_argument(values, "self"))
    if not source.sizes:
        raise Unsupported(f"{op_name(node)} of a tensor without dimensions; offered 1 and more")
    index = index_view(node_argument(values, "index"), lowering)
    axis = axis_of(values["dim"], len(source.sizes))
    selects = op_name(node) == "aten.index_select.default"

    def reach(view: View) -> Reach:
        return along(view, axis, index) if selects else elementwise(view, axis, index)

    return _read(node, source, reach, lowering)


def lower_index(node: Node, lowering: Lowering) -> Lowered:
    """index by integer tensors."""
    source = lowering.view(node_argument(arguments(node), "self"))
    return _read(node, source, lambda view: by_indices(node, view, lowering), lowering)


def _read(node: Node, source: View, reach: Callable[[View], Reach], lowering: Lowering) -> Lowered:
    found = reach(source)
    reached = reachable(source, found, node.name, lowering)
    if reached != source:
        found = reach(reached)
    emit_gather(node, found, lowering.new(node), lowering)
    return Lowered((node,), ("gather",))


def target_of(node: Node, source: Node, lowering: Lowering) -> View:
    """Where an update of source is written: its own state, or a copy; the node is bound to it."""
    view = updatable(node, source, lowering)
    if view is None:
        old = lowering.view(source)
        view = lowering.dense_view(lowering.new(node))
        lowering.copy(old, view, name=f"{node.name}.copy")
    lowering.bind_view(node, view)
    return view


def lower_index_put(node: Node, lowering: Lowering) -> Lowered:
    """index_put without accumulation; by a mask of all dimensions it is a where."""
    values = arguments(node)
    if values.get("accumulate"):
        raise Unsupported("index_put that accumulates; offered plain writes")
    source, given = node_argument(values, "self"), node_argument(values, "values")
    dtype, indices = tensor_of(source).dtype, values["indices"]
    assert isinstance(indices, (list, tuple))
    mask = indices[0]
    if isinstance(mask, Node) and tensor_of(mask).dtype is torch.bool and tensor_of(given).numel() == 1:
        return _put_by_mask(node, source, mask, given, lowering=lowering)
    for index in indices:
        if isinstance(index, Node):
            index_view(index, lowering)
    check_dtype("scatter", lowering.device_dtype(dtype), node)
    x = cast(lowering, given, dtype)
    reach = by_indices(node, target_of(node, source, lowering), lowering)
    emit_scatter(node, x, reach, lowering)
    return Lowered((node,), ("scatter",))


def _put_by_mask(node: Node, source: Node, mask: Node, given: Node, *, lowering: Lowering) -> Lowered:
    """One value wherever a mask of the leading dimensions is true."""
    dtype, sizes = tensor_of(source).dtype, lowering.dims(tensor_of(source).shape)
    condition = lowering.view(mask)
    for _ in range(len(sizes) - len(condition.sizes)):
        condition = insert(condition, len(condition.sizes))
    value = cast(lowering, given, dtype)
    views = {
        "condition": broadcast(condition, sizes),
        "a": broadcast(View(value.tensor, value.offset, (), ()), sizes),
        "b": lowering.view(source),
    }
    check_dtype("where", lowering.device_dtype(dtype), node)
    emit(lowering, "where", lowering.new(node), sizes, views, {}, node=node)
    return Lowered((node,), ("where",))


def lower_index_copy(node: Node, lowering: Lowering) -> Lowered:
    """index_copy along one dimension, and scatter of a tensor or a number."""
    values = arguments(node)
    source = node_argument(values, "self")
    index = index_view(node_argument(values, "index"), lowering)
    if not tensor_of(source).dim():
        raise Unsupported(f"{op_name(node)} into a tensor without dimensions; offered 1 and more")
    dtype = tensor_of(source).dtype
    check_dtype("scatter", lowering.device_dtype(dtype), node)
    given = next(values[name] for name in ("source", "src", "value") if name in values)
    axis = axis_of(values["dim"], tensor_of(source).dim())
    x = cast(lowering, given, dtype) if isinstance(given, Node) and is_tensor(given) else None
    target = target_of(node, source, lowering)
    reach = along(target, axis, index) if "source" in values else elementwise(target, axis, index)
    if x is None:
        x = operand(lowering, given, dtype, reach.sizes)
    emit_scatter(node, View(x.tensor, x.offset, reach.sizes, x.strides), reach, lowering)
    return Lowered((node,), ("scatter",))


def lower_slice_scatter(node: Node, lowering: Lowering) -> Lowered:
    """slice_scatter and select_scatter: a copy into a view of the result."""
    values = arguments(node)
    source, given = node_argument(values, "self"), node_argument(values, "src")
    step = values.get("step", 1)
    if not isinstance(step, int):
        raise Unsupported(f"slice_scatter by a step of {step}; need a number")
    sizes = lowering.dims(tensor_of(source).shape)
    axis = axis_of(values["dim"], len(sizes))
    start = first_index(values["index"] if "index" in values else values["start"], sizes[axis], lowering)
    x = lowering.view(given)
    if "index" in values:
        x = insert(x, axis)
    target = target_of(node, source, lowering)
    place = narrow(target, axis, start, x.sizes[axis], step, multiply=lowering.multiply)
    lowering.copy(x, place, name=node.name)
    return Lowered((node,), ("strided_copy",))


def lower_copy(node: Node, lowering: Lowering) -> Lowered:
    """copy(self, src): src, broadcast and cast to self."""
    values = arguments(node)
    x = cast(lowering, node_argument(values, "src"), tensor_of(node).dtype)
    lowering.bind_view(node, broadcast(x, lowering.dims(tensor_of(node).shape)))
    return Lowered((node,), ())


WHOLE: tuple[torch._ops.OpOverload, ...] = ()
RULES: dict[str, Callable[[Node, Lowering], Lowered]] = {
    "aten.index_select.default": lower_gather,
    "aten.gather.default": lower_gather,
    "aten.index.Tensor": lower_index,
    "aten.index_put.default": lower_index_put,
    "aten.index_put_.default": lower_index_put,
    "aten.index_copy.default": lower_index_copy,
    "aten.scatter.src": lower_index_copy,
    "aten.scatter.value": lower_index_copy,
    "aten.slice_scatter.default": lower_slice_scatter,
    "aten.select_scatter.default": lower_slice_scatter,
    "aten.copy.default": lower_copy,
    **padding.RULES,
}

"""Writes of new keys and values into their places in a cache, in place: one pass, and no copy of the cache."""

from __future__ import annotations

import torch
from torch.fx import Node

from ..program import Dim
from .graph import arguments, node_argument, tensor_of
from .heads import QUAD, check_head_dim, heads_of, order, position_tensor
from .lowering import Lowered, Lowering, NotApplicable
from .patterns import is_tensor, shape_of
from .positions import read_affine, starts_at
from .state import updatable
from .view import ONE, ZERO, View

FROM_FIRST, EACH = 0, 1  # position_mode
_BY_HEAD, _BY_TOKEN = (0, 1, 2, 3), (0, 2, 1, 3)


def lower_index_copy(node: Node, lowering: Lowering) -> Lowered:
    """aten.index_copy(cache, 1 or 2, places, new)."""
    values = arguments(node)
    cache = node_argument(values, "self")
    axis = values["dim"]
    assert isinstance(axis, int)
    places, new = node_argument(values, "index"), node_argument(values, "source")
    return _lower(node, cache, axis % max(tensor_of(cache).dim(), 1), places, new, lowering)


def lower_index_put(node: Node, lowering: Lowering) -> Lowered:
    """aten.index_put(cache, [None, None, places], new), or with one None."""
    values = arguments(node)
    indices = values["indices"]
    if values["accumulate"] or not isinstance(indices, (list, tuple)):
        raise NotApplicable(f"{node.name} adds to what is there")
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or not is_tensor(given[0][1]) or tensor_of(given[0][1]).dtype.is_floating_point:
        raise NotApplicable(f"{node.name} has {len(given)} indices")
    axis, places = given[0]
    return _lower(node, node_argument(values, "self"), axis, places, node_argument(values, "values"), lowering)


WHOLE = ()
RULES = {
    "aten.index_copy.default": lower_index_copy,
    "aten.index_put.default": lower_index_put,
}


def _lower(node: Node, cache: Node, axis: int, places: Node, new: Node, lowering: Lowering) -> Lowered:
    if tensor_of(cache).dim() != 4 or axis not in (1, 2) or not tensor_of(cache).is_floating_point():
        raise NotApplicable(f"{node.name} updates no cache [B, H, T, D] or [B, T, H, D]")
    written = (1,) * (4 - tensor_of(new).dim()) + shape_of(new)
    wanted = tuple(size if index != axis else written[axis] for index, size in enumerate(shape_of(cache)))
    if written != wanted or tensor_of(new).dtype is not tensor_of(cache).dtype:
        raise NotApplicable(f"{node.name} broadcasts or casts what it writes")
    if tensor_of(places).dim() != 1 or tensor_of(places).dtype is torch.bool:
        raise NotApplicable(f"{node.name} writes to places of rank {tensor_of(places).dim()}")
    target = updatable(node, cache, lowering)
    if target is None:
        raise NotApplicable(f"{node.name} may not write into {cache.name}")
    first = starts_at(read_affine(places, lowering))
    position = lowering.operand(places) if first is None else position_tensor(first, lowering)
    emit_update(
        node,
        target,
        order(_of_rank_4(lowering.view(new)), _BY_HEAD if axis == 2 else _BY_TOKEN),
        position,
        lowering,
        layout=2 - axis,
        mode=EACH if first is None else FROM_FIRST,
    )
    lowering.bind_view(node, target)
    return Lowered((node,), ("update_cache",))


def _of_rank_4(view: View) -> View:
    """With leading dimensions of size 1, which an operator that broadcasts may go without."""
    missing = 4 - len(view.sizes)
    return View(view.tensor, view.offset, (ONE,) * missing + view.sizes, (ZERO,) * missing + view.strides)


def emit_update(
    node: Node, cache: View, new: View, position: int, lowering: Lowering, *, layout: int, mode: int
) -> None:
    """Writes new, [B, H, S, D], into a dense cache: layout 0 is [B, H, T, D], 1 is [B, T, H, D]."""
    head_dim = check_head_dim(new.sizes[3], multiple=QUAD, where=node.name)
    x = heads_of(new, lowering, name=f"{node.name}.new")
    attrs: dict[str, int | float | Dim] = {
        "heads": new.sizes[1],
        "head_dim": head_dim,
        "x_layout": x.layout,
        "x_first": x.first,
        "cache_layout": layout,
        "position_mode": mode,
    }
    slots = {"x": x.tensor, "position": position, "cache": cache.tensor}
    lowering.call("update_cache", slots, attrs, node=node, writes=("cache",))

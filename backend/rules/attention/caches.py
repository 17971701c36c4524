"""Writes of new keys and values into their places in a cache, in place: one pass, and no copy of the cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from ...lowering.graph import arguments, node_argument, tensor_of
from ...lowering.lowering import Lowered, Lowering, NotApplicable
from ...lowering.patterns import is_op, is_tensor, shape_of
from ...lowering.positions import item_chain, read_affine, starts_at
from ...lowering.state import updatable
from ...lowering.view import ONE, QUAD, ZERO, View
from ...program import Dim
from .heads import check_head_dim, heads_of, index_operand, order, position_tensor

FROM_FIRST, EACH, EACH_OF_BATCH = 0, 1, 3  # position_mode
_BY_HEAD, _BY_TOKEN = (0, 1, 2, 3), (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class Update:
    """New heads for a cache: dimension `axis` counts its places, 2 of [B, H, T, D] or 1 of [B, T, H, D].

    first: where the tokens go that follow each other; None: token s goes to places[s], or places[b, s]. result: the
    node that is the cache afterwards, if there is one.
    """

    node: Node
    result: Node | None
    cache: Node
    new: Node
    axis: int
    first: Node | int | None
    places: Node | None

    @property
    def axes(self) -> tuple[int, ...]:
        """The order of dimensions that makes [B, H, S, D] of `new`."""
        return _BY_HEAD if self.axis == 2 else _BY_TOKEN

    def position(self, lowering: Lowering) -> tuple[int, int]:
        """The tensor of positions and its position_mode."""
        if self.first is not None:
            return position_tensor(self.first, lowering), FROM_FIRST
        assert self.places is not None, f"{self.node.name} has no places"
        return index_operand(self.places, lowering), EACH if tensor_of(self.places).dim() == 1 else EACH_OF_BATCH


def read_update(node: Node, lowering: Lowering) -> Update:
    """A node that writes rows of a cache. Raises NotApplicable when it does anything else."""
    values = arguments(node)
    cache = node_argument(values, "self")
    if is_op(node, _INDEX_COPY):
        axis, places, new = values["dim"], node_argument(values, "index"), node_argument(values, "source")
    else:
        axis, places = _one_index(node, values)
        new = node_argument(values, "values")
    assert isinstance(axis, int)
    axis %= max(tensor_of(cache).dim(), 1)
    if tensor_of(places).dim() != 1 or tensor_of(places).dtype is torch.bool:
        raise NotApplicable(f"{node.name} writes to places of rank {tensor_of(places).dim()}")
    check_cache(node, cache, new, axis)
    if (1, 1, 1, *shape_of(new))[axis - 4] == 1 and shape_of(places)[0] != 1:
        raise NotApplicable(f"{node.name} broadcasts one row to many places")
    return Update(node, node, cache, new, axis, starts_at(read_affine(places, lowering)), places)


def check_cache(node: Node, cache: Node, new: Node, axis: int) -> None:
    """Raises NotApplicable unless `new` is whole rows of a cache in its dtype."""
    if tensor_of(cache).dim() != 4 or axis not in (1, 2) or not tensor_of(cache).is_floating_point():
        raise NotApplicable(f"{node.name} updates no cache [B, H, T, D] or [B, T, H, D]")
    written = (1,) * (4 - tensor_of(new).dim()) + shape_of(new)
    wanted = tuple(size if index != axis else written[axis] for index, size in enumerate(shape_of(cache)))
    if written != wanted or tensor_of(new).dtype is not tensor_of(cache).dtype:
        raise NotApplicable(f"{node.name} broadcasts or casts what it writes")


def lower_update(node: Node, lowering: Lowering) -> Lowered:
    """aten.index_copy(cache, 1 or 2, places, new), or index_put(cache, [None, None, places], new) or with one None."""
    update = read_update(node, lowering)
    target = updatable(node, update.cache, lowering)
    if target is None:
        raise NotApplicable(f"{node.name} may not write into {update.cache.name}")
    emit_update(update, target.tensor, lowering)
    lowering.bind_view(node, target)
    return Lowered((*item_chain(lowering, update.places), node), ("update_cache",))


WHOLE = (torch.ops.aten.index_copy.default,)  # decomposed it is index_put, which counts negative places from the end
_INDEX_COPY = "aten.index_copy.default"
RULES = {_INDEX_COPY: lower_update, "aten.index_put.default": lower_update}


def _one_index(node: Node, values: dict[str, object]) -> tuple[int, Node]:
    indices = values["indices"]
    if values["accumulate"] or not isinstance(indices, (list, tuple)):
        raise NotApplicable(f"{node.name} adds to what is there")
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or not is_tensor(given[0][1]) or tensor_of(given[0][1]).dtype.is_floating_point:
        raise NotApplicable(f"{node.name} has {len(given)} indices")
    return given[0]


def of_rank_4(view: View) -> View:
    """With leading dimensions of size 1, which an operator that broadcasts may go without."""
    missing = 4 - len(view.sizes)
    return View(view.tensor, view.offset, (ONE,) * missing + view.sizes, (ZERO,) * missing + view.strides)


def new_heads(update: Update, lowering: Lowering) -> View:
    """What is written, as [B, H, S, D]."""
    return order(of_rank_4(lowering.view(update.new)), update.axes)


def emit_update(update: Update, cache: int, lowering: Lowering, *, scale: int | None = None) -> None:
    """Writes into a dense cache; into one of int8 with its scales."""
    new = new_heads(update, lowering)
    head_dim = check_head_dim(new.sizes[3], multiple=QUAD, where=update.node.name)
    x = heads_of(new, lowering, name=f"{update.node.name}.new")
    position, mode = update.position(lowering)
    attrs: dict[str, int | float | Dim] = {
        "heads": new.sizes[1],
        "head_dim": head_dim,
        "x_layout": x.layout,
        "x_first": x.first,
        "cache_layout": 2 - update.axis,
        "position_mode": mode,
    }
    slots = {"x": x.tensor, "position": position, "cache": cache}
    if scale is None:
        lowering.call("update_cache", slots, attrs, node=update.node)
    else:
        slots["cache_scale"] = scale
        lowering.call("update_cache_q8", slots, attrs, node=update.node)

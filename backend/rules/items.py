"""Positions that a graph reads with item(), so that they could be sizes, though everything only counts tokens by them.

The rules of rotary tables, caches and attention take the tensor behind such an item. Where they are all that reads it,
the item, what is asserted about it and what is computed from it belong to the delegate, which then needs no size from
outside that changes with every token.
"""

from __future__ import annotations

from torch.fx import Node

from ..errors import Unsupported
from ..lowering.aten import CASTS, COPIES, FUNCTIONALIZED
from ..lowering.graph import is_size, op_name
from ..lowering.lowering import Lowered, Lowering, NotApplicable
from ..lowering.patterns import is_op, is_tensor, skip
from ..lowering.positions import ITEMS, renamed_axes
from .attention.caches import RULES as CACHE_RULES
from .attention.caches import read_update
from .attention.masks import read_mask
from .rotary.one_pass import read_places, rotations_by

_SUMS = ("aten.add.Tensor", "aten.add.Scalar", "aten.scalar_tensor.default")
_SLICE = "aten.slice.Tensor"
_SDPA = "aten.scaled_dot_product_attention.default"


def lower_item(node: Node, lowering: Lowering) -> Lowered:
    """An item that only position-aware rules read."""
    arithmetic, readers = _dependents(node)
    for reader in readers:
        if not _is_position_of(reader, lowering):
            raise NotApplicable(f"{node.name} is a size for {reader.name}")
    return Lowered((node, *arithmetic), ())


def refuse_reader(node: Node, lowering: Lowering) -> Lowered:
    """A node whose places another rule takes from the device: its own rule would make a size of them."""
    for item in _items_behind(node):
        try:
            lower_item(item, lowering)
        except NotApplicable:
            continue
        raise Unsupported(f"{node.name}: {item.name} stays on the device; need a rule that reads it as a position")
    raise NotApplicable(f"{node.name} reads no item")


WHOLE = ()
RULES = {**dict.fromkeys(ITEMS, lower_item), **dict.fromkeys((_SLICE, *_SUMS), refuse_reader)}


def _dependents(item: Node) -> tuple[list[Node], list[Node]]:
    """Sizes and assertions that follow from an item, and the operators that read it or them."""
    arithmetic: list[Node] = []
    readers: list[Node] = []
    for node in (pending := [item]):
        for user in node.users:
            if is_size(user) and user not in arithmetic and op_name(user) not in ITEMS:
                arithmetic.append(user)
                pending.append(user)
            elif not is_size(user) and user not in readers:
                readers.append(user)
    return arithmetic, readers


def _items_behind(node: Node) -> list[Node]:
    """The items that a node's sizes and scalars are made of."""
    pending = [source for source in node.all_input_nodes if not is_tensor(source)]
    for source in pending:
        pending += [item for item in source.all_input_nodes if not is_tensor(item) and item not in pending]
    return [source for source in pending if op_name(source) in ITEMS]


def _is_position_of(reader: Node, lowering: Lowering) -> bool:
    if is_op(reader, "llama.custom_sdpa.default", FUNCTIONALIZED):
        return True
    if is_op(reader, _SLICE):
        return all(_is_table_or_mask(view, lowering) for view in _views(reader))
    return is_op(reader, *_SUMS) and all(_is_place_of(view, lowering) for view in _views(reader))


def _views(node: Node) -> list[Node]:
    """The node and its copies, casts and reshapes, those that someone reads."""
    found = [node]
    for item in found:
        found += [user for user in item.users if user not in found and _is_view(user)]
    return [item for item in found if any(not _is_view(user) for user in item.users)]


def _is_view(node: Node) -> bool:
    return op_name(node) in CASTS | COPIES or renamed_axes(node) is not None


def _is_place_of(places: Node, lowering: Lowering) -> bool:
    """Whether places are only those of tokens that follow each other into caches."""
    for user in places.users:
        if is_op(user, *_SUMS) and all(_is_place_of(view, lowering) for view in _views(user)):
            continue
        if not _is_view(user) and not (is_op(user, *CACHE_RULES) and _follows(user, lowering)):
            return False
    return True


def _follows(update: Node, lowering: Lowering) -> bool:
    try:
        return read_update(update, lowering).first is not None
    except NotApplicable:
        return False


def _is_table_or_mask(rows: Node, lowering: Lowering) -> bool:
    """Whether rows of a constant are only tables of rotations, read by position, or masks that need no tensor."""
    masked = [user for user in rows.users if is_op(user, _SDPA)]
    if masked and all(user.args[3:4] == (rows,) or user.kwargs.get("attn_mask") is rows for user in masked):
        return read_mask(rows, lowering).left is None and all(user in masked or _is_view(user) for user in rows.users)
    found = [rotation for _, rotation in rotations_by(rows)]
    products = [user for user in rows.users if not _is_view(user)]
    counted = sum(2 if rotation.interleaved else 1 for rotation in found)
    read = all(read_places(rotation, lowering) is not None for rotation in found)
    return bool(found) and counted == len(products) and read and all(skip(user) is user for user in products)

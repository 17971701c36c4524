"""Finds what lies between a layer's projections and its attention, and becomes one call:

    q_out = rotary(norm(q)), k_cache[position] = rotary(norm(k)), v_cache[position] = v      (norms or none)

The decision is made from the graph alone, so that every node of a group makes the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from ...lowering.aten import FUNCTIONALIZED, RESHAPES
from ...lowering.graph import arguments, op_name, tensor_of
from ...lowering.lowering import Lowering, NotApplicable
from ...lowering.patterns import is_op, shape_of, skip
from ...lowering.positions import same_position
from ...lowering.state import SHARING, updatable
from ..attention.caches import RULES as CACHE_RULES
from ..attention.caches import Update, read_update
from ..attention.llama_ops import read_custom_update
from ..norms import Norm, read_norm
from .one_pass import read_places, token_axes
from .rotations import Rotation, read_halves, read_pairs, read_partial

_DEPTH = 6  # nodes from a table to the end of a rotation, at most
_FAR = 64  # nodes between the updates of a layer's two caches, at most


@dataclass(frozen=True, slots=True)
class HeadsRead:
    """Heads before their norm and rotation. axes: the dimensions of `source` that are B, H, S and D."""

    rotation: Rotation
    source: Node
    axes: tuple[int, ...]
    norm: Norm | None


@dataclass(frozen=True, slots=True)
class Group:
    """rotated: the node of q's rotation. k, v: the updates of the caches, v after k."""

    rotated: Node
    query: HeadsRead
    key: HeadsRead
    k: Update
    v: Update


def group_of_query(node: Node, lowering: Lowering) -> Group | None:
    """The group whose rotated queries a node is."""
    rotation = read_rotation(node)
    for other, _ in () if rotation is None else rotations_by(rotation.cos):
        for update in () if other is node else _updates_with(other):
            group = group_of_keys(update, lowering)
            if group is not None and group.rotated is node:
                return group
    return None


def group_of_values(node: Node, lowering: Lowering) -> Group | None:
    """The group whose values a node writes."""
    before = _neighbour(node, backwards=True)
    group = None if before is None else group_of_keys(before, lowering)
    return group if group is not None and group.v.node is node else None


def group_of_keys(node: Node, lowering: Lowering) -> Group | None:
    """The group whose rotated keys a node writes."""
    after = _neighbour(node, backwards=False)
    k, v = _update(node, lowering), None if after is None else _update(after, lowering)
    if k is None or v is None or k.result is None:
        return None
    turned, axes = _unpermuted(k.new)
    rotation = read_rotation(turned)
    others = [] if rotation is None else [item for item, _ in rotations_by(rotation.cos) if item is not turned]
    query = read_rotation(others[0]) if len(others) == 1 else None
    if rotation is None or query is None:
        return None
    try:
        turned_axes = token_axes(rotation)
        if tuple(axes[axis] for axis in k.axes) != turned_axes or token_axes(query) != turned_axes:
            return None
        heads = [_heads(item, lowering) for item in (query, rotation)]
        if not _same_norms(heads[0].norm, heads[1].norm):
            heads = [HeadsRead(item, item.x, turned_axes, None) for item in (query, rotation)]
        group = Group(others[0], heads[0], heads[1], k, v)
        return group if _is_sound(group, lowering) else None
    except NotApplicable:
        return None


def read_rotation(node: Node) -> Rotation | None:
    """The rotation that a node ends."""
    for read, operators in _READERS:
        if is_op(node, *operators):
            try:
                return read(node)
            except NotApplicable:
                return None
    return None


_READERS = (
    (read_halves, ("aten.add.Tensor",)),
    (read_partial, ("aten.cat.default",)),
    (read_pairs, tuple(sorted(RESHAPES))),
)


def rotations_by(table: Node) -> list[tuple[Node, Rotation]]:
    """The rotations by a table and the nodes that end them; of a partial rotation, the one that has whole heads."""
    reached, level = {table}, [table]
    for _ in range(_DEPTH):
        level = [user for node in level for user in node.users if user not in reached and user.op == "call_function"]
        reached.update(level)
    found = []
    for node in sorted(reached):
        rotation = read_rotation(node)
        if rotation is not None and table in (rotation.cos, rotation.sin):
            found.append((node, rotation))
    return [
        (node, rotation) for node, rotation in found if not any(node in other.all_input_nodes for other, _ in found)
    ]


def _updates_with(turned: Node) -> list[Node]:
    """The nodes that write rotated keys, however they are permuted, into a cache."""
    return [user for node in _sharing(turned) for user in node.users if _is_update(user)]


def _sharing(node: Node) -> list[Node]:
    """The node and all views of it."""
    found = [node]
    for item in found:
        found += [user for user in item.users if op_name(user) in SHARING and user not in found]
    return found


def _is_update(node: Node) -> bool:
    return is_op(node, *CACHE_RULES, FUNCTIONALIZED)


def _neighbour(node: Node, *, backwards: bool) -> Node | None:
    """The update of a cache next to this one."""
    for _ in range(_FAR):
        node = node.prev if backwards else node.next
        if node.op in ("root", "output") or _is_update(node):
            return node if _is_update(node) else None
    return None


def _update(node: Node, lowering: Lowering) -> Update | None:
    try:
        return read_custom_update(node) if is_op(node, FUNCTIONALIZED) else read_update(node, lowering)
    except NotApplicable:
        return None


def _unpermuted(node: Node) -> tuple[Node, tuple[int, ...]]:
    """(source, axes): dimension d of the node, leading ones added, is dimension axes[d] of a source of rank 4."""
    node = skip(node)
    if is_op(node, *RESHAPES) and isinstance(node.args[0], Node) and shape_of(node.args[0]) == (1, *shape_of(node)):
        node = skip(node.args[0])
    axes = tuple(range(4))
    while tensor_of(node).dim() == 4 and isinstance(node.args[0] if node.args else None, Node):
        values = arguments(node) if is_op(node, "aten.permute.default", "aten.transpose.int") else {}
        if is_op(node, "aten.permute.default"):
            given = values["dims"]
            assert isinstance(given, (list, tuple))
            dims = [dim % 4 for dim in given]
        elif is_op(node, "aten.transpose.int"):
            a, b = (int(str(values[name])) % 4 for name in ("dim0", "dim1"))
            dims = list(range(4))
            dims[a], dims[b] = b, a
        else:
            break
        axes = tuple(dims[axis] for axis in axes)
        source = node.args[0]
        assert isinstance(source, Node)
        node = skip(source)
    return node, axes


def _heads(rotation: Rotation, lowering: Lowering) -> HeadsRead:
    """The heads that a rotation turns, before their norm if they have one that the kernel computes."""
    turned_axes = token_axes(rotation)
    source, axes = _unpermuted(rotation.x)
    try:
        norm = read_norm(source, lowering)
    except NotApplicable:
        return HeadsRead(rotation, rotation.x, turned_axes, None)
    constant = norm.weight is None or lowering.constant(skip(norm.weight, casts=True)) is not None
    if not constant or tensor_of(norm.x).dim() != 4 or tensor_of(norm.x).dtype is not tensor_of(rotation.x).dtype:
        return HeadsRead(rotation, rotation.x, turned_axes, None)
    return HeadsRead(rotation, norm.x, tuple(axes[axis] for axis in turned_axes), norm)


def _same_norms(a: Norm | None, b: Norm | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and a.eps == b.eps)


def _is_sound(group: Group, lowering: Lowering) -> bool:
    """Whether the one call, in the place of the second update, computes what the graph does."""
    k, v, last = group.k, group.v, group.v.node
    rotations = (group.query.rotation, group.key.rotation)
    if any(updatable(update.node, update.cache, lowering) is None for update in (k, v)):
        return False
    if k.axis != v.axis or shape_of(k.cache) != shape_of(v.cache) or not _same_places(k, v):
        return False
    read = [*_users(group.rotated, group), *_users(k.result, group)] if k.result is not None else [last]
    if group.rotated > last or any(user < last for user in read):
        return False
    values = (group.query.source, group.key.source, v.new, k.cache, v.cache)
    if len({tensor_of(item).dtype for item in values}) > 1 or len({shape_of(item.x)[-1] for item in rotations}) > 1:
        return False
    tables = {lowering.device_dtype(tensor_of(table).dtype) for item in rotations for table in (item.cos, item.sin)}
    wide = lowering.device_dtype(torch.float32)
    if len(tables) > 1 or not tables <= {wide, lowering.device_dtype(tensor_of(k.cache).dtype)}:
        return False
    if len({(item.width, item.interleaved) for item in rotations}) > 1 or rotations[0].width % 2:
        return False
    heads = [shape_of(item.x) for item in rotations]
    return all(
        isinstance(size, int) for shape in heads for size in (shape[3], shape[token_axes(rotations[0])[1]])
    ) and (_placed_alike(group, lowering))


def _users(node: Node, group: Group) -> list[Node]:
    """Who reads a value, through whatever views of it; the group's own updates aside."""
    readers = [user for item in _sharing(node) for user in item.users if op_name(user) not in SHARING]
    return [user for user in readers if user is not group.k.node and user is not group.v.node]


def _same_places(k: Update, v: Update) -> bool:
    if k.first is not None and v.first is not None:
        return same_position(k.first, v.first)
    return k.first is None and v.first is None and k.places is v.places


def _placed_alike(group: Group, lowering: Lowering) -> bool:
    """Whether tables that are read by position are read at the positions of the cache."""
    for heads in (group.query, group.key):
        places = read_places(heads.rotation, lowering)
        if places is None:
            continue
        if places.first is not None and group.k.first is not None:
            if not same_position(places.first, group.k.first):
                return False
        elif places.each is None or places.each is not group.k.places:
            return False
    return True

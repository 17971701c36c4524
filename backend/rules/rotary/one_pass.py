"""Rotary position embedding in one pass, of all or the first elements of every head.

The tables come computed for each token, or are rows of a table, which the kernel then picks by position itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from ...kernels.dtypes import DType
from ...lowering.aten import RESHAPES
from ...lowering.graph import arguments, op_name, tensor_of
from ...lowering.index_checks import Use, require
from ...lowering.lowering import Lowered, Lowering, NotApplicable
from ...lowering.patterns import is_op, shape_of, skip
from ...lowering.positions import item_chain, read_affine, read_position, renamed_axes, same_position, starts_at
from ...lowering.view import ONE, ZERO, View, add, scale
from ...program import Dim
from ..attention.heads import dense_tensor, heads_of, largest, order, position_tensor
from .rotations import ADD, Rotation, read_halves, read_pairs, read_partial
from .tables import MadeTable, count_rows, fits, read_made

_DEPTH = 6  # nodes from a table to the end of a rotation, at most
_BY_POSITION, _BY_TOKEN, _BY_BATCH_AND_TOKEN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Tables:
    """Both tables as the kernel takes them: tensors, and which of their rows are whose."""

    cos: int
    sin: int
    rows: int


@dataclass(frozen=True, slots=True)
class Places:
    """Positions: from `first` on, or one for each token."""

    first: Node | int | None
    each: Node | None

    def tensor(self, lowering: Lowering) -> int:
        """The positions on the device."""
        if self.first is not None:
            return position_tensor(self.first, lowering)
        assert self.each is not None, "no places"
        return lowering.operand(self.each)


@dataclass(frozen=True, slots=True)
class _Picked:
    """Rows of a table that positions on the device choose."""

    table: Node
    places: Places


def lower_sum(node: Node, lowering: Lowering) -> Lowered:
    """The sum that ends a rotation of whole heads by halves."""
    return _emit(node, read_halves(node), lowering)


def lower_cat(node: Node, lowering: Lowering) -> Lowered:
    """The cat that ends a rotation of the first elements of every head."""
    return _emit(node, read_partial(node), lowering)


def lower_reshape(node: Node, lowering: Lowering) -> Lowered:
    """The reshape that ends a rotation of neighbouring elements."""
    return _emit(node, read_pairs(node), lowering)


WHOLE = ()
RULES = {ADD: lower_sum, "aten.cat.default": lower_cat, **dict.fromkeys(sorted(RESHAPES), lower_reshape)}


def token_axes(rotation: Rotation) -> tuple[int, int, int, int]:
    """The order of dimensions that makes [B, H, S, D] of x: the tables change along S, and not along H."""
    x, width = shape_of(rotation.x), rotation.width
    shapes = [(1,) * (4 - tensor_of(item).dim()) + shape_of(item) for item in (rotation.cos, rotation.sin)]
    cos = shapes[0]
    wanted = width // 2 if rotation.interleaved else width
    if shapes[0] != shapes[1] or len(cos) != 4 or cos[3] != wanted or cos[0] not in (1, x[0]):
        raise NotApplicable(f"{rotation.x.name} is turned by tables {shapes[0]}, {shapes[1]}")
    for axis in (2, 1):
        if cos[axis] == x[axis] and cos[3 - axis] == 1:
            return (0, 3 - axis, axis, 3)
    raise NotApplicable(f"{rotation.x.name} is turned by tables {cos}")


def read_places(rotation: Rotation, lowering: Lowering) -> Places | None:
    """Which rows of tables the kernel picks by position; None where the tables are computed for each token."""
    made = _read_made_tables(rotation, lowering)
    if made is not None:
        return Places(made[0].first, None)
    cos, sin = (_read_picked(item, lowering) for item in (rotation.cos, rotation.sin))
    return cos.places if cos is not None and sin is not None and cos.places == sin.places else None


def make_tables(rotation: Rotation, lowering: Lowering) -> Tables:
    """Both tables on the device."""
    made = _read_made_tables(rotation, lowering)
    if made is not None:
        cos, sin, rows = made
        tokens = lowering.dims(tensor_of(rotation.x).shape)[token_axes(rotation)[2]]
        last = add(Dim(rows), scale(tokens, -1))
        require(rotation.x, Use(cos.first, ZERO, last, f"first rows of {rows} for the tokens' angles"), lowering)
        tensors = [item.tensor(rows, lowering) for item in (cos, sin)]
        return Tables(tensors[0], tensors[1], _BY_POSITION)
    picked = [_read_picked(item, lowering) for item in (rotation.cos, rotation.sin)]
    if read_places(rotation, lowering) is not None:
        tensors = [lowering.operand(item.table) for item in picked if item is not None]
        return Tables(tensors[0], tensors[1], _BY_POSITION)
    axes = token_axes(rotation)
    views = [_token_rows(item, axes, lowering) for item in (rotation.cos, rotation.sin)]
    if len(views[0].sizes) != len(views[1].sizes):
        raise NotApplicable(f"{rotation.x.name} is turned by tables of different shapes")
    names = (rotation.cos.name, rotation.sin.name)
    tensors = [dense_tensor(view, lowering, name=name) for view, name in zip(views, names, strict=True)]
    return Tables(tensors[0], tensors[1], _BY_TOKEN if len(views[0].sizes) == 2 else _BY_BATCH_AND_TOKEN)


def check_tables(tables: Tables, heads: int, lowering: Lowering, *, where: str) -> None:
    """Raises NotApplicable where no variant turns such heads by such tables. heads: the tensor that holds them."""
    x, cos, sin = (lowering.builder.tensor_info(tensor).dtype for tensor in (heads, tables.cos, tables.sin))
    if cos is not sin or (cos is not DType.F32 and x is not DType.F16):
        raise NotApplicable(f"{where} turns {x} by tables of {cos} and {sin}")


def _emit(node: Node, rotation: Rotation, lowering: Lowering) -> Lowered:
    axes = token_axes(rotation)
    value = order(lowering.view(rotation.x), axes)
    _, heads, _, head_dim = value.sizes
    if heads.terms or head_dim.terms or rotation.width % 2 or head_dim.base % 2:
        raise NotApplicable(f"{node.name} turns heads of {head_dim}; need an even number")
    tables, places = make_tables(rotation, lowering), read_places(rotation, lowering)
    x = heads_of(value, lowering, name=rotation.x.name, multiple=1)
    check_tables(tables, x.tensor, lowering, where=node.name)
    y = lowering.new(node)
    attrs: dict[str, int | float | Dim] = {
        "heads": heads,
        "head_dim": head_dim,
        "x_layout": x.layout,
        "x_first": x.first,
        "y_layout": 0 if axes[2] == 2 else 1,
        "rotary_dim": rotation.width,
        "interleaved": int(rotation.interleaved),
        "table_rows": tables.rows,
        "position_mode": 0 if places is None or places.each is None else 1,
    }
    position = position_tensor(0, lowering) if places is None else places.tensor(lowering)
    args = {"x": x.tensor, "cos_table": tables.cos, "sin_table": tables.sin, "position": position, "y": y}
    lowering.call("rotary_embedding", args, attrs, node=node)
    return Lowered((*item_chain(lowering, rotation.cos, rotation.sin), node), ("rotary_embedding",))


def _read_made_tables(rotation: Rotation, lowering: Lowering) -> tuple[MadeTable, MadeTable, int] | None:
    """Constants for every position, in place of tables that the graph computes for each token; and their rows."""
    cos, sin = (read_made(item, lowering) for item in (rotation.cos, rotation.sin))
    if cos is None or sin is None or not same_position(cos.first, sin.first):
        return None
    tokens = largest(lowering.dims(tensor_of(rotation.x).shape)[token_axes(rotation)[2]], lowering)
    rows = count_rows(cos.first, tokens, lowering)
    return (cos, sin, rows) if rows is not None and fits(rows, rotation.width, lowering) else None


def _token_rows(table: Node, axes: tuple[int, ...], lowering: Lowering) -> View:
    """A table of shape [S, width], or [B, S, width] when batch entries have rows of their own."""
    view = lowering.view(table)
    missing = 4 - len(view.sizes)
    full = View(view.tensor, view.offset, (ONE,) * missing + view.sizes, (ZERO,) * missing + view.strides)
    kept = (axes[2], 3) if full.sizes[0] == ONE or full.strides[0] == ZERO else (0, axes[2], 3)
    return order(full, kept)


def _read_picked(table: Node, lowering: Lowering) -> _Picked | None:
    """The rows of a table that positions on the device choose; None when all of them are computed or known."""
    node = skip(table)
    while renamed_axes(node) is not None and isinstance(node.args[0], Node) and not is_op(node, "aten.expand.default"):
        node = skip(node.args[0])
    if is_op(node, "aten.slice.Tensor"):
        values = arguments(node)
        first = read_position(values["start"])
        if isinstance(first, Node) and values["dim"] == 0 and values["step"] == 1:
            return _whole(values["self"], Places(first, None))
    if op_name(node) in ("aten.index.Tensor", "aten.index_select.default", "aten.embedding.default"):
        values = arguments(node)
        given = values.get("indices", values.get("index"))
        places = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given
        if values.get("dim", 0) != 0 or not isinstance(places, Node) or tensor_of(places).dim() != 1:
            return None
        first = starts_at(read_affine(places, lowering))
        return _whole(values.get("self", values.get("weight")), Places(first, None if first is not None else places))
    return None


def _whole(table: object, places: Places) -> _Picked | None:
    if not isinstance(table, Node) or tensor_of(table).dim() != 2 or not tensor_of(table).is_floating_point():
        return None
    return _Picked(table, places)


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

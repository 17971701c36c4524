"""Rotary position embedding in one pass, of all or the first elements of every head.

The tables come computed for each token, or are rows of a table, which the kernel then picks by position itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from ..dtypes import DType
from ..program import Dim
from .graph import arguments, op_name, tensor_of
from .heads import dense_tensor, heads_of, largest, order, position_tensor
from .lowering import Lowered, Lowering, NotApplicable
from .patterns import RESHAPES, is_op, shape_of, skip
from .positions import read_affine, read_position, renamed_axes, same_position, starts_at
from .rotary_tables import count_rows, fits, read_made
from .rotations import ADD, Rotation, read_halves, read_pairs, read_partial
from .view import ONE, ZERO, View

_BY_POSITION, _BY_TOKEN, _BY_BATCH_AND_TOKEN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class _Tables:
    """Both tables as the kernel takes them: tensors, and which of their rows are whose."""

    cos: int
    sin: int
    rows: int
    position: int
    position_mode: int


@dataclass(frozen=True, slots=True)
class _Picked:
    """Rows of a table: those from `first` on, or one for each element of `places`."""

    table: Node
    first: Node | int | None
    places: Node | None = None


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


def _emit(node: Node, rotation: Rotation, lowering: Lowering) -> Lowered:
    token_axis = _token_axis(rotation)
    axes = (0, 3 - token_axis, token_axis, 3)
    value = order(lowering.view(rotation.x), axes)
    _, heads, _, head_dim = value.sizes
    if heads.terms or head_dim.terms or rotation.width % 2 or head_dim.base % 2:
        raise NotApplicable(f"{node.name} turns heads of {head_dim}; need an even number")
    tables = _tables(rotation, axes, lowering)
    x = heads_of(value, lowering, name=rotation.x.name, multiple=1)
    dtypes = [lowering.builder.tensor_info(tensor).dtype for tensor in (x.tensor, tables.cos, tables.sin)]
    if dtypes[1] is not dtypes[2] or (dtypes[1] is not DType.F32 and dtypes[0] is not DType.F16):
        raise NotApplicable(f"{node.name} turns {dtypes[0]} by tables of {dtypes[1]} and {dtypes[2]}")
    y = lowering.new(node)
    attrs: dict[str, int | float | Dim] = {
        "heads": heads,
        "head_dim": head_dim,
        "x_layout": x.layout,
        "x_first": x.first,
        "y_layout": 0 if token_axis == 2 else 1,
        "rotary_dim": rotation.width,
        "interleaved": int(rotation.interleaved),
        "table_rows": tables.rows,
        "position_mode": tables.position_mode,
    }
    args = {"x": x.tensor, "cos_table": tables.cos, "sin_table": tables.sin, "position": tables.position, "y": y}
    lowering.call("rotary_embedding", args, attrs, node=node)
    return Lowered((node,), ("rotary_embedding",))


def _token_axis(rotation: Rotation) -> int:
    """Which of dimensions 1 and 2 of x counts tokens: the tables change along it, and not along the heads."""
    x, width = shape_of(rotation.x), rotation.width
    shapes = [(1,) * (4 - tensor_of(item).dim()) + shape_of(item) for item in (rotation.cos, rotation.sin)]
    cos = shapes[0]
    wanted = width // 2 if rotation.interleaved else width
    if shapes[0] != shapes[1] or len(cos) != 4 or cos[3] != wanted or cos[0] not in (1, x[0]):
        raise NotApplicable(f"{rotation.x.name} is turned by tables {shapes[0]}, {shapes[1]}")
    for axis in (2, 1):
        if cos[axis] == x[axis] and cos[3 - axis] == 1:
            return axis
    raise NotApplicable(f"{rotation.x.name} is turned by tables {cos}")


def _tables(rotation: Rotation, axes: tuple[int, ...], lowering: Lowering) -> _Tables:
    made = _made_tables(rotation, lowering)
    if made is not None:
        return made
    picked = [_read_picked(item, lowering) for item in (rotation.cos, rotation.sin)]
    cos, sin = picked
    if cos is not None and sin is not None and (cos.first, cos.places) == (sin.first, sin.places):
        found = [lowering.operand(item.table) for item in (cos, sin)]
        if cos.first is not None:
            return _Tables(found[0], found[1], _BY_POSITION, position_tensor(cos.first, lowering), 0)
        assert cos.places is not None
        return _Tables(found[0], found[1], _BY_POSITION, lowering.operand(cos.places), 1)
    views = [_token_rows(item, axes, lowering) for item in (rotation.cos, rotation.sin)]
    if len(views[0].sizes) != len(views[1].sizes):
        raise NotApplicable(f"{rotation.x.name} is turned by tables of different shapes")
    tensors = [
        dense_tensor(view, lowering, name=item.name)
        for view, item in zip(views, (rotation.cos, rotation.sin), strict=True)
    ]
    rows = _BY_TOKEN if len(views[0].sizes) == 2 else _BY_BATCH_AND_TOKEN
    return _Tables(tensors[0], tensors[1], rows, position_tensor(0, lowering), 0)


def _made_tables(rotation: Rotation, lowering: Lowering) -> _Tables | None:
    """Constants for every position, in place of tables that the graph computes for each token."""
    cos, sin = (read_made(item, lowering) for item in (rotation.cos, rotation.sin))
    if cos is None or sin is None or not same_position(cos.first, sin.first):
        return None
    tokens = largest(lowering.dims(tensor_of(rotation.x).shape)[_token_axis(rotation)], lowering)
    rows = count_rows(cos.first, tokens, lowering)
    if rows is None or not fits(rows, rotation.width, lowering):
        return None
    tables = [item.tensor(rows, lowering) for item in (cos, sin)]
    return _Tables(tables[0], tables[1], _BY_POSITION, position_tensor(cos.first, lowering), 0)


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
            return _whole(values["self"], first, None)
    if op_name(node) in ("aten.index.Tensor", "aten.index_select.default", "aten.embedding.default"):
        values = arguments(node)
        given = values.get("indices", values.get("index"))
        places = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given
        if values.get("dim", 0) != 0 or not isinstance(places, Node) or tensor_of(places).dim() != 1:
            return None
        first = starts_at(read_affine(places, lowering))
        return _whole(values.get("self", values.get("weight")), first, None if first is not None else places)
    return None


def _whole(table: object, first: Node | int | None, places: Node | None) -> _Picked | None:
    if not isinstance(table, Node) or tensor_of(table).dim() != 2 or not tensor_of(table).is_floating_point():
        return None
    return _Picked(table, first, places)

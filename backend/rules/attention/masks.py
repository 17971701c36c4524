"""Masks that say no more than which keys a query sees by their places: the kernels compute those, no tensor is read.

Read are comparisons of positions, their conjunctions, a `where` of 0 and a large negative number by them, and rows of a
constant lower triangle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from ...lowering.graph import arguments, op_name, tensor_of
from ...lowering.lowering import Lowering, NotApplicable
from ...lowering.patterns import is_known, is_op, is_tensor, scalar, shape_of, skip
from ...lowering.positions import Affine, combine, read_affine, renamed_axes, same_position

HIDDEN = -1e4  # a number that hides a key when it is added to its score: smaller ones were made for that alone
_AND = ("aten.bitwise_and.Tensor", "aten.logical_and.default", "aten.__and__.Tensor")
_WHERES = ("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
# a <= b is a - b <= 0, and a < b is a - b + 1 <= 0
_COMPARISONS = {
    f"aten.{name}.{kind}": how
    for name, how in {"le": (1, 0), "lt": (1, 1), "ge": (-1, 0), "gt": (-1, 1)}.items()
    for kind in ("Tensor", "Scalar")
}
# (queries, keys, position) of `bound <= 0`: t - s - position, and s + position + 1 - window - t
_CAUSAL, _WINDOW = (-1, 1, -1), (1, -1, 1)


@dataclass(frozen=True, slots=True)
class Seen:
    """The keys t that query s sees: t <= position + s when causal, t > position + s - window when window > 0."""

    causal: bool = False
    window: int = 0
    position: Node | int = 0


ALL = Seen()


@dataclass(frozen=True, slots=True)
class Mask:
    """What is seen by place and by the mask that is left, which broadcasts as the whole one did."""

    seen: Seen
    left: Node | None


def read_mask(mask: Node, lowering: Lowering) -> Mask:
    """A mask [..., S, T] as what it says about places, and the rest of it; all of it where nothing can be proven."""
    terms = _terms(mask, lowering)
    bounds: list[Affine] = []
    left: list[Node] = []
    for term in terms or [mask]:
        try:
            bounds += _bounds_of(term, mask, lowering)
        except NotApplicable:
            left.append(term)
    try:
        seen = _classify([bound for bound in bounds if not _always(bound)])
    except NotApplicable:
        return Mask(ALL, mask)
    return Mask(seen, left[0] if left else None) if len(left) <= 1 else Mask(ALL, mask)


def _terms(node: Node, lowering: Lowering) -> list[Node]:
    """Masks of bools which all must let a query see a key; none when it is no conjunction.

    A float mask is one of 0 and -inf: with any other number a row that sees no key is not the same.
    """
    node = skip(node)
    if is_op(node, *_AND):
        return [term for item in node.args if isinstance(item, Node) for term in _terms(item, lowering)]
    if is_op(node, "aten.expand.default") and isinstance(node.args[0], Node):
        return _terms(node.args[0], lowering)
    if is_op(node, *_WHERES) and isinstance(node.args[0], Node):
        values = [scalar(item, lowering) if is_known(item, lowering) else None for item in node.args[1:3]]
        return _terms(node.args[0], lowering) if values == [0, -math.inf] else []
    return [node] if tensor_of(node).dtype is torch.bool else []


def _bounds_of(term: Node, mask: Node, lowering: Lowering) -> list[Affine]:
    bounds = _read(term, lowering)
    if shape_of(mask)[-2:-1] == (1,):
        return [_without_queries(bound) for bound in bounds]
    return bounds


def _classify(bounds: list[Affine]) -> Seen:
    seen, windows = Seen(), []
    for bound in bounds:
        if any(axis not in (-1, -2) for axis in bound.axes()):
            raise NotApplicable("a mask of batch entries")
        kind = (bound.step(-2), bound.step(-1))
        position = _position(bound, -1 if kind == _CAUSAL[:2] else 1)
        if kind == _CAUSAL[:2] and (not seen.causal or same_position(seen.position, position)):
            seen = Seen(True, 0, position)
        elif kind == _WINDOW[:2]:
            windows.append(bound)
        else:
            raise NotApplicable("a mask of another shape")
    for bound in windows:
        seen = _with_window(seen, bound)
    return seen


def _position(bound: Affine, sign: int) -> Node | int:
    """What is added to the index of a query."""
    if bound.factor == 0:
        return sign * bound.constant
    if bound.factor != sign or bound.base is None or (sign < 0 and bound.constant != 0):
        raise NotApplicable("a mask of shifted positions")
    return bound.base


def _with_window(seen: Seen, bound: Affine) -> Seen:
    if not seen.causal or seen.window:
        raise NotApplicable("a window without an end")
    constant = bound.constant
    if bound.factor == 0 and isinstance(seen.position, int):
        constant -= seen.position
    elif bound.factor != 1 or bound.base is None or not same_position(seen.position, bound.base):
        raise NotApplicable("a window at another position")
    if constant > 0:
        raise NotApplicable("a window of no keys")
    return replace(seen, window=1 - constant)


def _always(bound: Affine) -> bool:
    return bound.factor == 0 and bound.constant <= 0 and all(bound.step(axis) <= 0 for axis in bound.axes())


def _without_queries(bound: Affine) -> Affine:
    """Of one query: as if its index, which is 0, were written in."""
    step = -bound.step(-1)
    return replace(bound, steps={**(bound.steps or {}), -2: step}) if step else bound


def _read(node: Node, lowering: Lowering) -> list[Affine]:
    """Bounds, each <= 0, all of which hold exactly where the mask lets a query see a key."""
    node = skip(node)
    name = op_name(node)
    if name in _AND:
        return [bound for item in node.args for bound in _read_operand(item, lowering)]
    if name in _COMPARISONS:
        return [_read_comparison(node, lowering)]
    if name in _WHERES:
        return _read_where(node, lowering)
    if scalar(node, lowering) == 1 and is_known(node, lowering) and tensor_of(node).dtype is torch.bool:
        return []
    places = renamed_axes(node)
    if places is not None:
        return [_moved(bound, places) for bound in _read_operand(node.args[0], lowering)]
    return [_read_triangle(node, lowering)]


def _read_operand(value: object, lowering: Lowering) -> list[Affine]:
    if not isinstance(value, Node) or not is_tensor(value):
        raise NotApplicable("a mask of a number")
    return _read(value, lowering)


def _moved(bound: Affine, places: Mapping[int, int]) -> Affine:
    moved = bound.moved(places)
    if moved is None:
        raise NotApplicable("a mask that is reshaped")
    return moved


def _read_comparison(node: Node, lowering: Lowering) -> Affine:
    sign, more = _COMPARISONS[op_name(node)]
    a, b = (read_affine(item, lowering) for item in node.args[:2])
    difference = None if a is None or b is None else combine(*((a, b) if sign > 0 else (b, a)), -1)
    if difference is None:
        raise NotApplicable(f"{node.name} compares what are no positions")
    return replace(difference, constant=difference.constant + more)


def _read_where(node: Node, lowering: Lowering) -> list[Affine]:
    """where(seen, 0, a large negative number)."""
    condition, kept, hidden = node.args
    values = [scalar(item, lowering) if is_known(item, lowering) else None for item in (kept, hidden)]
    if values[0] != 0 or values[1] is None or values[1] > HIDDEN:
        raise NotApplicable(f"{node.name} adds other numbers")
    return _read_operand(condition, lowering)


def _read_triangle(node: Node, lowering: Lowering) -> Affine:
    """Rows of a constant [P, T] whose row p sees keys up to p."""
    rows, table = Affine(steps={-1: 1}), node
    while is_op(table, "aten.slice.Tensor", "aten.index.Tensor", "aten.index_select.default"):
        found = _read_rows(table, lowering)
        if found is not None:
            total = combine(Affine(rows.constant, rows.factor, rows.base), found, 1)
            if total is None or rows.step(-1) != 1:
                raise NotApplicable(f"{node.name} takes rows of rows")
            rows = total
        source = table.args[0]
        assert isinstance(source, Node)
        table = skip(source)
    constant = lowering.constant(table)
    if constant is None or constant.data is None or constant.data.dim() != 2 or not _is_triangle(constant.data):
        raise NotApplicable(f"{node.name} is no row of a lower triangle")
    negative = combine(Affine(), rows, -1)
    assert negative is not None
    return replace(negative, steps={-1: 1, -2: negative.step(-1)})


def _read_rows(node: Node, lowering: Lowering) -> Affine | None:
    """Which rows of its input a node takes; None for a slice of its first columns."""
    values = arguments(node)
    if is_op(node, "aten.slice.Tensor"):
        first = values["start"] or 0
        if values["dim"] in (1, -1) and first == 0 and values["step"] == 1:
            return None
        start = read_affine(first, lowering)
        if values["dim"] in (0, -2) and values["step"] == 1 and start is not None:
            return replace(start, steps={-1: 1})
    else:
        indices = values.get("indices", [values.get("index")])
        if isinstance(indices, (list, tuple)) and len(indices) == 1 and values.get("dim", 0) in (0, -2):
            found = read_affine(indices[0], lowering)
            if found is not None and tensor_of(indices[0]).dim() == 1:
                return found if found.axes() else replace(found, steps={-1: 1})  # of one element, any step
    raise NotApplicable(f"{node.name} takes rows that do not follow each other")


def _is_triangle(table: torch.Tensor) -> bool:
    seen = table if table.dtype is torch.bool else table == 0
    if table.dtype is not torch.bool and bool((table[~seen] > HIDDEN).any()):
        return False
    return bool((seen == torch.ones_like(seen).tril()).all())

"""Reads rotary position embeddings in a graph, as models write them: Hugging Face's halves and Llama's neighbours.

x * cos + cat(-x2, x1) * sin                            halves x1, x2 of the last dimension
flatten(stack(r * cos - i * sin, r * sin + i * cos))    pairs r, i of neighbouring elements
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.fx import Node

from ...lowering.aten import RESHAPES
from ...lowering.graph import arguments, tensor_of
from ...lowering.lowering import NotApplicable
from ...lowering.patterns import either, is_op, is_tensor, operands, part, shape_of, skip

MUL, ADD, SUB = "aten.mul.Tensor", "aten.add.Tensor", "aten.sub.Tensor"
_RANK = 4
_SQUEEZES = ("aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default")


@dataclass(frozen=True, slots=True)
class Rotation:
    """The first `width` elements of every head of x, [B, H, S, D] or [B, S, H, D], turned by tables that broadcast."""

    x: Node
    cos: Node
    sin: Node
    width: int
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class _Element:
    """Element 0 or 1 of every pair of x, times a table."""

    x: Node
    index: int
    table: Node


def read_halves(node: Node) -> Rotation:
    """The sum of the first form. Raises NotApplicable when it is none."""
    if not is_op(node, ADD) or tensor_of(node).dim() != _RANK:
        raise NotApplicable(f"{node.name} adds no rotation")
    a, b = operands(node)
    for straight, crossed in ((a, b), (b, a)):
        turned = _factors(crossed, lambda item: _turned(item) is not None)
        x = None if turned is None else _turned(turned[0])
        if turned is None or x is None or shape_of(x) != shape_of(node):
            continue
        own = _factors(straight, lambda item, x=x: skip(item) is x)  # type: ignore[misc]
        width = shape_of(x)[-1]
        if own is not None and isinstance(width, int):
            return Rotation(x, own[1], turned[1], width)
    raise NotApplicable(f"{node.name} adds no rotation")


def read_partial(node: Node) -> Rotation:
    """cat(the first form of the first elements of every head, the other elements, if there are any)."""
    given = arguments(node)["tensors"]
    if isinstance(given, (list, tuple)) and len(given) == 1:
        return read_halves(skip(given[0]))
    pieces = _joined(node)
    if pieces is None or tensor_of(node).dim() != _RANK:
        raise NotApplicable(f"{node.name} does not join a rotated part with the rest")
    rotation = read_halves(pieces[0])
    if shape_of(pieces[1])[-1] == 0 and shape_of(rotation.x) == shape_of(node):
        return rotation
    first, rest = part(rotation.x), part(pieces[1])
    if (first.start, rest.start) != (0, rotation.width) or first.source is not rest.source:
        raise NotApplicable(f"{node.name} joins parts of other heads")
    if shape_of(first.source) != shape_of(node):
        raise NotApplicable(f"{node.name} leaves out elements of the heads")
    return Rotation(first.source, rotation.cos, rotation.sin, rotation.width)


def read_pairs(node: Node) -> Rotation:
    """The second form, which ends in a reshape."""
    pieces = _stacked(node.args[0]) if node.args and isinstance(node.args[0], Node) else None
    width = shape_of(node)[-1] if is_tensor(node) and tensor_of(node).dim() == _RANK else None
    if pieces is None or not isinstance(width, int) or not is_op(pieces[0], SUB) or not is_op(pieces[1], ADD):
        raise NotApplicable(f"{node.name} ends no rotation of pairs")
    a, b = (_read_element(item) for item in operands(pieces[0]))
    c, d = (_read_element(item) for item in operands(pieces[1]))
    if a is None or b is None or c is None or d is None:
        raise NotApplicable(f"{node.name} ends no rotation of pairs")
    if c.index == 1:
        c, d = d, c
    indices = (a.index, b.index, c.index, d.index) == (0, 1, 0, 1)
    crossed = a.table is d.table and b.table is c.table
    if not indices or not crossed or any(item.x is not a.x for item in (b, c, d)) or shape_of(a.x) != shape_of(node):
        raise NotApplicable(f"{node.name} ends no rotation of pairs")
    return Rotation(a.x, a.table, b.table, width, interleaved=True)


def _factors(product: object, first: Callable[[Node], bool]) -> tuple[Node, Node] | None:
    """Both factors of a product of tensors, in front the one for which `first` holds."""
    found = either(product, first) if isinstance(product, Node) and is_op(product, MUL) else None
    if found is None or not isinstance(found[1], Node) or not is_tensor(found[1]):
        return None
    return found[0], found[1]


def _joined(node: Node) -> tuple[Node, Node] | None:
    """Both pieces of a cat along the last dimension."""
    if not is_op(node, "aten.cat.default"):
        return None
    values = arguments(node)
    pieces = values["tensors"]
    if (
        not isinstance(pieces, (list, tuple))
        or len(pieces) != 2
        or values["dim"] not in (-1, tensor_of(node).dim() - 1)
    ):
        return None
    return skip(pieces[0]), skip(pieces[1])


def _turned(node: Node) -> Node | None:
    """x of cat(-x2, x1), x1 and x2 its halves."""
    joined = skip(node)
    pieces = _joined(joined)
    if pieces is None or not is_op(pieces[0], "aten.neg.default") or not isinstance(pieces[0].args[0], Node):
        return None
    try:
        second, first = part(pieces[0].args[0]), part(pieces[1])
    except NotApplicable:
        return None
    half = first.length
    if (first.start, second.start, second.length) != (0, half, half) or first.source is not second.source:
        return None
    return first.source if shape_of(first.source) == shape_of(joined) else None


def _stacked(node: Node) -> tuple[Node, Node] | None:
    """Both pieces of a stack along a new last dimension."""
    node = skip(node)
    if not is_tensor(node) or shape_of(node)[-1:] != (2,):
        return None
    if is_op(node, "aten.stack.default"):
        values = arguments(node)
        pieces = values["tensors"]
        if not isinstance(pieces, (list, tuple)) or values["dim"] not in (-1, tensor_of(node).dim() - 1):
            return None
        return skip(pieces[0]), skip(pieces[1])
    pieces = _joined(node)
    if pieces is None:
        return None
    first, second = (_without_last(piece) for piece in pieces)
    return None if first is None or second is None else (first, second)


def _without_last(node: Node) -> Node | None:
    """What a node adds a last dimension of size 1 to."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or not is_op(node, "aten.unsqueeze.default", *RESHAPES):
        return None
    return skip(source) if shape_of(node) == (*shape_of(source), 1) else None


def _read_element(product: object) -> _Element | None:
    found = _factors(product, lambda item: _pair_element(item) is not None)
    element = None if found is None else _pair_element(found[0])
    return None if found is None or element is None else _Element(element[0], element[1], skip(found[1]))


def _pair_element(node: Node) -> tuple[Node, int] | None:
    """(x, i) of element i of the pairs of x, x viewed as [..., 2]."""
    node = skip(node)
    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return None
    index: object = None
    if is_op(node, "getitem") and is_op(source, "aten.unbind.int"):
        pairs, index, axis = source.args[0], node.args[1], arguments(source)["dim"]
    elif is_op(node, "aten.select.int"):
        pairs, index, axis = source, arguments(node)["index"], arguments(node)["dim"]
    elif is_op(node, *_SQUEEZES, *RESHAPES) and is_op(source, "aten.slice.Tensor"):
        pairs, index, axis = source.args[0], arguments(source)["start"], arguments(source)["dim"]
        if shape_of(source) != (*shape_of(node), 1):
            return None
    else:
        return None
    if not isinstance(pairs, Node) or axis not in (-1, tensor_of(pairs).dim() - 1) or index not in (0, 1):
        return None
    x = pairs.args[0] if is_op(pairs, *RESHAPES) else None
    if not isinstance(x, Node) or shape_of(pairs)[-1] != 2 or shape_of(pairs)[:-2] != shape_of(x)[:-1]:
        return None
    assert isinstance(index, int)
    return skip(x), index

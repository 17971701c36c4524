"""What pattern rules read a graph with: nodes that change no value, scalars however they are stored, parts of heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import sympy
import torch
from torch.fx import Node

from .aten import CASTS, COPIES, RESHAPES
from .graph import arguments, op_name, tensor_of
from .lowering import Lowering, NotApplicable

# They keep every element where it is; shape and dtype may differ, which is asked for separately.
_SAME_SHAPE = CASTS | COPIES | RESHAPES | {"aten.expand.default"}
Size: TypeAlias = int | sympy.Expr
UNKNOWN = 1.0  # of a scalar whose data is not there yet: only which nodes a rule takes is asked then


def skip(node: Node, *, casts: bool = False) -> Node:
    """The node upstream whose value this is: no copy, no reshape to the same shape; with casts, of any float dtype."""
    while op_name(node) in _SAME_SHAPE and isinstance(node.args[0], Node):
        before, after = tensor_of(node.args[0]), tensor_of(node)
        if shape_of(node.args[0]) != shape_of(node):
            break
        if before.dtype is not after.dtype and not (casts and both_float(before, after)):
            break
        node = node.args[0]
    return node


def shape_of(node: Node) -> tuple[Size, ...]:
    """The node's shape, traced sizes as expressions: comparing them puts no guard on the graph's symbols."""
    return tuple(size if isinstance(size, int) else size.node.expr for size in tensor_of(node).shape)


def is_single(node: Node) -> bool:
    """Whether a tensor is known to have one element."""
    return all(size == 1 for size in shape_of(node))


def both_float(*values: torch.Tensor) -> bool:
    """Whether all are floating-point."""
    return all(value.dtype.is_floating_point for value in values)


def is_tensor(value: object) -> bool:
    """Whether an argument is a node that gives a tensor."""
    return isinstance(value, Node) and isinstance(value.meta.get("val"), torch.Tensor)


def scalar(value: object, lowering: Lowering) -> float | None:
    """A number, or the value of a constant of one element; None for anything else, UNKNOWN without its data."""
    if isinstance(value, (bool, int, float)):
        return float(value)
    if not isinstance(value, Node) or not is_tensor(value) or not is_single(value):
        return None
    node = skip(value, casts=True)
    if op_name(node) in ("aten.scalar_tensor.default", "aten.full.default", "aten.full_like.default"):
        given = node.args[0 if op_name(node) == "aten.scalar_tensor.default" else 1]
        return float(given) if isinstance(given, (bool, int, float)) else None
    if op_name(node) in ("aten.new_ones.default", "aten.ones.default", "aten.ones_like.default"):
        return 1.0
    if op_name(node) in ("aten.new_zeros.default", "aten.zeros.default", "aten.zeros_like.default"):
        return 0.0
    constant = lowering.constant(node)
    if constant is None:
        return None
    return UNKNOWN if constant.data is None else float(constant.data.reshape(()).item())


def is_known(value: object, lowering: Lowering) -> bool:
    """Whether the data of a scalar is there already."""
    if not isinstance(value, Node):
        return True
    constant = lowering.constant(skip(value, casts=True))
    return constant is None or constant.data is not None


def operands(node: Node) -> tuple[object, object]:
    """Both operands of a binary operator, whose alpha, if it has one, is 1."""
    values = list(arguments(node).values())
    if arguments(node).get("alpha", 1) != 1:
        raise NotApplicable(f"{node.name} has an alpha of {arguments(node)['alpha']}")
    return values[0], values[1]


def either(node: Node, first: Callable[[Node], bool]) -> tuple[Node, object] | None:
    """Both operands of a commutative operator, in front the one for which `first` holds; None if none."""
    a, b = operands(node)
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Node) and is_tensor(one) and first(one):
            return one, other
    return None


def is_number(value: object, wanted: float) -> bool:
    """Whether an argument is this number."""
    return isinstance(value, (int, float)) and value == wanted


def is_op(node: object, *names: str) -> bool:
    """Whether a node is one of these operators."""
    return isinstance(node, Node) and op_name(node) in names


@dataclass(frozen=True, slots=True)
class Part:
    """Elements [start, start + length) of the last dimension of source."""

    source: Node
    start: int
    length: int


def part(node: Node) -> Part:
    """A node as a part of the last dimension of another: a slice of it, or one of the results of a split."""
    node = skip(node)
    axis = tensor_of(node).dim() - 1
    length = tensor_of(node).shape[-1]
    source = node.args[0] if node.args else None
    if not isinstance(length, int) or not isinstance(source, Node):
        raise NotApplicable(f"{node.name} is no part of a last dimension")
    if is_op(node, "aten.slice.Tensor"):
        values = arguments(node)
        start = values["start"] or 0
        if values["dim"] in (axis, -1) and values["step"] == 1 and isinstance(start, int):
            total = tensor_of(source).shape[-1]
            return Part(skip(source), start + total if start < 0 else start, length)
    if is_op(node, "getitem") and is_op(
        source, "aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default"
    ):
        values = arguments(source)
        pieces = source.meta["val"]
        whole = source.args[0]
        if values["dim"] in (axis, -1) and isinstance(whole, Node):
            start = sum(piece.shape[-1] for piece in pieces[: node.args[1]])
            return Part(skip(whole), start, length)
    raise NotApplicable(f"{node.name} is no part of a last dimension")

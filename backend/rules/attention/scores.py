"""Reads attention that was written out or decomposed: q k^T, scale, soft cap, mask, softmax, times v.

As torch decomposes scaled_dot_product_attention, and as eager models write it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import sympy
from torch.fx import Node

from ...lowering.aten import CASTS, COPIES, RESHAPES
from ...lowering.graph import arguments, op_name, tensor_of
from ...lowering.lowering import Lowering, NotApplicable
from ...lowering.patterns import is_known, is_number, is_op, is_tensor, operands, scalar, shape_of, skip
from .masks import HIDDEN

PRODUCTS = ("aten.matmul.default", "aten.bmm.default")
_SOFTMAXES = ("aten._softmax.default", "aten.softmax.int", "aten._safe_softmax.default")
_SCALINGS = ("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar")
_THROUGH = RESHAPES | COPIES | CASTS | {"aten.expand.default"}


@dataclass(slots=True)
class Scores:
    """q [B, H, S, D], k and v [B, H, T, D]; or without the dimension H. nan_rows: see attention_calls.Attention."""

    q: Node
    k: Node
    v: Node
    mask: Node | None = None
    scale: float = 1.0
    soft_cap: float = 0.0
    nan_rows: bool = True
    nodes: list[Node] = field(default_factory=list)


def read_scores(node: Node, lowering: Lowering) -> Scores:
    """The attention whose last product is `node`. Raises NotApplicable when it is none."""
    weights, values = node.args[:2]
    if not isinstance(weights, Node) or not isinstance(values, Node):
        raise NotApplicable(f"{node.name} is no product of nodes")
    softmax, safe = _read_softmax(_matrices(weights), lowering)
    given = arguments(softmax)
    scored = given["self"]
    if given["dim"] not in (-1, tensor_of(softmax).dim() - 1) or not isinstance(scored, Node):
        raise NotApplicable(f"{node.name}: a softmax along another dimension")
    found = Scores(softmax, softmax, _matrices(values), nan_rows=not safe, nodes=[softmax, node])
    product = _read_cap(_read_masks(scored, found, lowering), found, lowering)
    found.nodes.append(product)
    q, transposed = product.args[:2]
    if not isinstance(q, Node) or not isinstance(transposed, Node):
        raise NotApplicable(f"{product.name} is no product of nodes")
    found.q = _unscaled(q, found, lowering)
    found.k = _unscaled(_untransposed(_unscaled(transposed, found, lowering)), found, lowering)
    return found


def _matrices(node: Node) -> Node:
    """The node upstream with the same matrices in the same order, of rank 4 if there is one."""
    first = skip(node, casts=True)
    found = first
    while tensor_of(found).dim() != 4:
        source = found.args[0] if op_name(found) in _THROUGH else None
        if not isinstance(source, Node) or not _same_matrices(source, found):
            return first
        found = skip(source, casts=True)
    return found


def _scored(node: Node) -> Node:
    """The node upstream with the same scores, a product of rank 3 if it is reshaped into them."""
    node = _matrices(node)
    source = node.args[0] if op_name(node) in _THROUGH else None
    if isinstance(source, Node) and is_op(skip(source, casts=True), *PRODUCTS) and _same_matrices(source, node):
        return skip(source, casts=True)
    return node


def _same_matrices(a: Node, b: Node) -> bool:
    before, after = shape_of(a), shape_of(b)
    same_type = tensor_of(a).dtype is tensor_of(b).dtype or tensor_of(a).is_floating_point()
    return before[-2:] == after[-2:] and sympy.prod(before) == sympy.prod(after) and same_type


def _read_softmax(node: Node, lowering: Lowering) -> tuple[Node, bool]:
    """(softmax, whether a row of -inf alone becomes 0)."""
    node = _matrices(node)
    if is_op(node, *_SOFTMAXES):
        return node, is_op(node, "aten._safe_softmax.default")
    if is_op(node, "aten.where.self"):
        hidden, zero, softmax = node.args
        if isinstance(softmax, Node) and is_op(skip(softmax), *_SOFTMAXES) and _is_zero(zero, lowering):
            softmax = skip(softmax)
            if _rows_hidden(hidden) is softmax.args[0]:
                return softmax, True
    raise NotApplicable(f"{node.name} is no softmax")


def _is_zero(value: object, lowering: Lowering) -> bool:
    if isinstance(value, Node) and is_op(value, "aten.full_like.default", "aten.full.default"):
        return is_number(value.args[1], 0)
    return is_op(value, "aten.zeros_like.default") or scalar(value, lowering) == 0


def _rows_hidden(node: object) -> object:
    """x of not any(not (x == -inf), -1)."""
    for name in ("aten.logical_not.default", "aten.any.dim", "aten.logical_not.default", "aten.eq.Scalar"):
        if not isinstance(node, Node) or not is_op(node, name):
            return None
        if name == "aten.any.dim" and arguments(node)["dim"] not in (-1, tensor_of(node).dim() - 1):
            return None
        if name == "aten.eq.Scalar" and node.args[1] != -math.inf:
            return None
        node = node.args[0]
    return node


def _read_masks(node: Node, found: Scores, lowering: Lowering) -> Node:
    """What is left of the scores without a mask that is added, or that replaces them."""
    node = _scored(node)
    if is_op(node, "aten.add.Tensor"):
        for scores, mask in (operands(node), operands(node)[::-1]):
            if _leads_to_product(scores) and isinstance(mask, Node) and is_tensor(mask) and isinstance(scores, Node):
                found.mask = mask
                found.nodes.append(node)
                return _scored(scores)
    if is_op(node, "aten.where.self"):
        mask, scores, hidden = node.args
        value = scalar(hidden, lowering)
        lowest = value is not None and (value <= HIDDEN or not is_known(hidden, lowering))
        if isinstance(scores, Node) and isinstance(mask, Node) and lowest and _leads_to_product(scores):
            found.mask = mask
            found.nan_rows = found.nan_rows and value == -math.inf
            found.nodes.append(node)
            return _scored(scores)
    return node


def _leads_to_product(node: object) -> bool:
    while isinstance(node, Node) and is_tensor(node):
        node = _scored(node)
        if is_op(node, *PRODUCTS):
            return True
        if not is_op(node, *_SCALINGS, "aten.tanh.default"):
            return False
        first = node.args[0]
        single = len(node.args) > 1 and isinstance(first, Node) and is_tensor(first) and tensor_of(first).dim() == 0
        node = node.args[1] if single else first
    return False


def _read_cap(node: Node, found: Scores, lowering: Lowering) -> Node:
    """The product behind a scale, and behind cap * tanh(... / cap)."""
    node, cap = _read_scale(node, lowering)
    if is_op(node, "aten.tanh.default") and isinstance(node.args[0], Node):
        found.nodes.append(node)
        node, inner = _read_scale(_scored(node.args[0]), lowering)
        found.soft_cap, found.scale = cap, inner * cap
    else:
        found.scale = cap
    if not is_op(node, *PRODUCTS):
        raise NotApplicable(f"{node.name} is no product of queries and keys")
    return node


def _read_scale(node: Node, lowering: Lowering) -> tuple[Node, float]:
    """(x, factor) of a value that is x times scalars."""
    factor = 1.0
    node = _scored(node)
    while is_op(node, *_SCALINGS):
        a, b = operands(node)
        number = scalar(b, lowering)
        if number is None and "mul" in op_name(node):
            a, b, number = b, a, scalar(a, lowering)
        if number is None or number == 0 or not isinstance(a, Node):
            break
        factor = factor / number if "div" in op_name(node) else factor * number
        node = _scored(a)
    return node, factor


def _unscaled(node: Node, found: Scores, lowering: Lowering) -> Node:
    node, factor = _read_scale(node, lowering)
    found.scale *= factor
    return node


def _untransposed(node: Node) -> Node:
    """x of x with its last two dimensions exchanged."""
    rank = tensor_of(node).dim()
    source = node.args[0] if node.args else None
    if is_op(node, "aten.permute.default") and isinstance(source, Node):
        dims = arguments(node)["dims"]
        assert isinstance(dims, (list, tuple))
        if [dim % rank for dim in dims] == [*range(rank - 2), rank - 1, rank - 2]:
            return skip(source, casts=True)
    if is_op(node, "aten.transpose.int") and isinstance(source, Node):
        axes = {int(str(arguments(node)[name])) % rank for name in ("dim0", "dim1")}
        if axes == {rank - 1, rank - 2}:
            return skip(source, casts=True)
    raise NotApplicable(f"{node.name} does not transpose keys")

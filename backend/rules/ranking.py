"""topk. NaN is the largest, and equal elements keep their order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels._generated.signatures import TopkOp
from ..lowering.graph import arguments, node_argument, static_dim, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.shapes import permute
from ..lowering.values import bind_empty, check_dtype
from ..lowering.view import ZERO
from ..lowering.view_changes import axis_of
from .rows import MOST_FIRST, PIECE, first_of_rows


def lower_topk_parent(node: Node, lowering: Lowering) -> Lowered:
    """topk has two results, which getitem picks."""
    values = arguments(node)
    source = node_argument(values, "self")
    rank, k = tensor_of(source).dim(), values["k"]
    check_dtype("topk_rows", lowering.device_dtype(tensor_of(source).dtype), node, slot="x")
    if not rank or not isinstance(k, int):
        raise Unsupported(f"{node.name}: topk of rank {rank}, k {k}; offered rank 1 and more, and a constant k")
    length = static_dim(source, axis_of(values["dim"], rank))
    if length > PIECE and k > MOST_FIRST:
        raise Unsupported(f"{node.name}: topk of {k} in {length}; offered up to {MOST_FIRST}, or all of {PIECE}")
    return Lowered((node,), ())


def lower_topk(node: Node, lowering: Lowering) -> Lowered:
    """The first k elements (result 0), or their indices (1)."""
    parent, result = node.args
    assert isinstance(parent, Node)
    assert isinstance(result, int)
    lower_topk_parent(parent, lowering)
    values = arguments(parent)
    x, k = lowering.view(node_argument(values, "self")), values["k"]
    assert isinstance(k, int)
    if not k or ZERO in x.sizes:
        return bind_empty(lowering, node)
    axis = axis_of(values["dim"], len(x.sizes))
    rows = permute(x, [*(i for i in range(len(x.sizes)) if i != axis), axis])
    op = TopkOp.LARGEST if values["largest"] else TopkOp.SMALLEST
    found = lowering.once(("topk", parent), lambda: first_of_rows(parent, rows, k, op, lowering))
    last = len(x.sizes) - 1
    lowering.bind_view(node, permute(lowering.dense_view(found[result]), [*range(axis), last, *range(axis, last)]))
    return Lowered((node,), ("topk_rows",))


RULES: dict[str, Callable[[Node, Lowering], Lowered]] = {
    "aten.topk.default": lower_topk_parent,
    "getitem of aten.topk.default": lower_topk,
}
WHOLE: tuple[torch._ops.OpOverload, ...] = ()

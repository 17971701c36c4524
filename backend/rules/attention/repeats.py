"""Keys and values that a graph repeats for grouped queries, and where the ones lie that are not repeated."""

from __future__ import annotations

from torch.fx import Node

from ...lowering.aten import COPIES, RESHAPES
from ...lowering.graph import arguments, tensor_of
from ...lowering.patterns import is_op, is_tensor, shape_of, skip


def unrepeated(node: Node) -> tuple[Node, tuple[Node, ...]]:
    """The [B, kv_heads, T, D] of which [B, H, T, D] holds each head H // kv_heads times; and the nodes in between.

    Both are one when nothing is repeated.
    """
    if is_op(node, "aten.repeat_interleave.self_int"):
        values = arguments(node)
        source = values["self"]
        assert isinstance(source, Node)
        return (source, (node,)) if values["dim"] in (1, -3) and tensor_of(node).dim() == 4 else (node, ())
    nodes, expanded = [node], node
    if not is_op(node, *RESHAPES) or not isinstance(node.args[0], Node):
        return node, ()
    expanded = node.args[0]
    while is_op(expanded, *COPIES) and isinstance(expanded.args[0], Node):
        nodes.append(expanded)
        expanded = expanded.args[0]
    if not is_op(expanded, "aten.expand.default") or not isinstance(expanded.args[0], Node):
        return node, ()
    single = expanded.args[0]
    source = single.args[0] if single.args else None
    if not is_op(single, "aten.unsqueeze.default", *RESHAPES) or not isinstance(source, Node) or not is_tensor(source):
        return node, ()
    shape, repeated = shape_of(source), shape_of(expanded)
    if len(shape) != 4 or len(repeated) != 5 or shape_of(single) != (*shape[:2], 1, *shape[2:]):
        return node, ()
    heads, times = shape[1], repeated[2]
    if not isinstance(heads, int) or not isinstance(times, int) or repeated != (*shape[:2], times, *shape[2:]):
        return node, ()
    if shape_of(node) != (shape[0], heads * times, *shape[2:]):
        return node, ()
    return skip(source), (*nodes, expanded, single)

"""Assertions about data that a graph carries, one_hot's for example: where eager PyTorch raises, a run fails."""

from __future__ import annotations

import torch
from torch.fx import Node

from ..lowering.graph import arguments, node_argument, op_name
from ..lowering.index_checks import Use, ask_host
from ..lowering.indices import emit_check
from ..lowering.lowering import Lowered, Lowering
from ..lowering.patterns import is_op
from ..lowering.values import cast
from ..lowering.view import ONE
from ..program import Dim

_LARGEST = 2**31 - 1
_NOT, _ANY = "aten.logical_not.default", ("aten.any.default", "aten.any.dims", "aten.any.dim")
# What comparing with a number asks for: the bounds less that number.
_BOUNDS: dict[str, tuple[int | None, int | None]] = {
    "aten.ge.Scalar": (0, None),
    "aten.gt.Scalar": (1, None),
    "aten.le.Scalar": (None, 0),
    "aten.lt.Scalar": (None, -1),
}


def lower_assertion(node: Node, lowering: Lowering) -> Lowered:
    """_assert_async: the host looks at an input, a call at what is computed."""
    values = arguments(node)
    condition, text = node_argument(values, "self"), str(values["assert_msg"]).rstrip(".")
    use = _asserted(condition, text)
    if use is not None and ask_host(use, lowering):
        return Lowered((node,), ())
    emit_check(node, cast(lowering, condition, torch.int32), (ONE, ONE), lowering, what=text)
    return Lowered((node,), ("check_index",))


WHOLE = ()
RULES = {"aten._assert_async.msg": lower_assertion}


def _asserted(condition: Node, text: str) -> Use | None:
    """not any(not (x >= number)), and the like: what it asks of x."""
    node: object = condition
    for names in ((_NOT,), _ANY, (_NOT,)):
        if not isinstance(node, Node) or not is_op(node, *names):
            return None
        node = node.args[0]
    if not isinstance(node, Node) or not is_op(node, *_BOUNDS):
        return None
    index, number = node.args
    low, high = _BOUNDS[op_name(node)]
    if not isinstance(index, Node) or not isinstance(number, int):
        return None
    ends = -_LARGEST if low is None else number + low, _LARGEST if high is None else number + high
    return Use(index, Dim(ends[0]), Dim(ends[1]), f"values by the assertion {text!r}")

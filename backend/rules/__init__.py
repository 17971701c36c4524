"""Rules: operator name -> kernel calls. "Can it be lowered?" and "lower it" are the same function."""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import Node

from . import linear
from .graph import op_name
from .lowering import Lowered, Lowering

Rule = Callable[[Node, Lowering], Lowered]
_FAMILIES = (linear,)


def find_rule(node: Node) -> Rule | None:
    """The rule for a node's operator, or None."""
    name = op_name(node)
    for family in _FAMILIES:
        rule: Rule | None = family.RULES.get(name)
        if rule is not None:
            return rule
    return None


__all__ = ["Lowered", "Lowering", "Rule", "find_rule"]

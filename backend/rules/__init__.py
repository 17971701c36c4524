"""Rules: operator name -> kernel calls. "Can it be lowered?" and "lower it" are the same function."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..lowering.graph import op_name
from ..lowering.lowering import Lowered, Lowering, NotApplicable
from ..lowering.options import CompileOptions
from . import (
    assertions,
    convolution,
    elementwise,
    embedding,
    gated,
    indexing,
    items,
    joins,
    matmul,
    norms,
    ranges,
    ranking,
    rows,
    views,
)
from .attention import caches, llama_ops, quantized_caches
from .attention import one_pass as attention
from .linear import quantized as linear
from .rotary import one_pass as rotary

Rule = Callable[[Node, Lowering], Lowered]
# In the order in which they are asked: a rule that takes several nodes comes before the one of its last node alone.
_FUSING = (quantized_caches, items, llama_ops, ranges, attention, rotary, norms, gated, caches)
_SINGLE = (linear, matmul, convolution, embedding, rows, ranking, indexing, views, joins, elementwise, assertions)
_FAMILIES = (*_FUSING, *_SINGLE)
_LINEARS = (linear,)


def has_rule(node: Node, options: CompileOptions) -> bool:
    """Whether some rule is there for a node's operator."""
    return any(_key(node) in family.RULES for family in _families(options))


def lower_node(node: Node, lowering: Lowering) -> Lowered:
    """Lowers a node with the first rule that it fits. Raises Unsupported with the reason of the rule that refused."""
    name, reason = _key(node), None
    for family in _families(lowering.options):
        rule: Rule | None = family.RULES.get(name)
        if rule is None:
            continue
        try:
            return rule(node, lowering)
        except NotApplicable as error:
            reason = reason or str(error)
    raise Unsupported(reason or f"no rule for {name}")


def _key(node: Node) -> str:
    """The operator; for one of several results, `getitem of` the operator that gives them."""
    name = op_name(node)
    source = node.args[0] if name == "getitem" else None
    return f"getitem of {op_name(source)}" if isinstance(source, Node) else name


def operators_kept_whole(options: CompileOptions) -> list[torch._ops.OpOverload]:
    """Operators that a rule wants to see before ExecuTorch decomposes them."""
    return list(dict.fromkeys(operator for family in _families(options) for operator in family.WHOLE))


def _families(options: CompileOptions) -> tuple[ModuleType, ...]:
    if options.operators == "linear":
        return _LINEARS
    return _FAMILIES


__all__ = ["Lowered", "Lowering", "NotApplicable", "Rule", "has_rule", "lower_node", "operators_kept_whole"]

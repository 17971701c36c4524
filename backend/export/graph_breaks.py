"""Tells the user of a graph break: how many operators stay outside the delegates, and the most expensive reasons."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from ..errors import GraphBreakWarning
from ..lowering.graph import op_name
from .matching import Matching, is_arithmetic

_SHOWN = 3


def warn_of_breaks(matching: Matching, n_delegates: int) -> None:
    """Warns once where some operators are delegated and others are not. Sizes and asserts do not count."""
    left = [node for node in matching.reasons if not is_arithmetic(node)]
    if not left or not n_delegates:
        return
    count = len(left) + len(matching.taken())
    costs: dict[str, tuple[int, Node]] = {}
    for node in left:
        before, first = costs.get(matching.reasons[node], (0, node))
        costs[matching.reasons[node]] = (before + elements_moved(node), first)
    worst = sorted(costs.items(), key=lambda item: -item[1][0])[:_SHOWN]
    reasons = "; ".join(f"{node.name} ({op_name(node)}, {cost} elements): {why}" for why, (cost, node) in worst)
    delegates = f"{n_delegates} delegate{'s' * (n_delegates > 1)}"
    warnings.warn(
        f"zeropoint: {len(left)} of {count} nodes stay on the CPU beside {delegates}. "
        f"Most expensive, by the elements they read and write: {reasons}. zeropoint.explain(program) lists all",
        GraphBreakWarning,
        stacklevel=2,
    )


def elements_moved(node: Node) -> int:
    """Elements of a node's tensors, results and operands, at the sizes that the program was traced with."""
    values = [node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes)]
    return sum(_numel(leaf.shape) for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _numel(shape: Sequence[int | torch.SymInt]) -> int:
    product = 1
    for size in shape:
        product *= size if isinstance(size, int) else int(size.node.hint or 1)
    return product

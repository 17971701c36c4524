"""Why each node of a program runs where it runs: the calls it becomes, what it is fused into, or why it stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.backend.partitioner import Partitioner, PartitionResult
from torch.export import ExportedProgram
from torch.fx import Node

from ..errors import Unsupported
from ..fusion import Draft, Step, fuse
from ..lowering.graph import op_name
from ..lowering.options import CompileOptions
from ..lowering.state import SHARING
from ..rules import Lowering, lower_node
from .matching import Matching, group_anchors, is_arithmetic, match_program
from .partitioner import ZeropointPartitioner


@dataclass(frozen=True, slots=True)
class Row:
    """One operator node. partition: the delegate it falls into, or -1. module: the innermost one that computes it.

    outcome: its kernels, after `or` those that the player may take instead, `fused into` the node whose kernels compute
    it, `no call` where only its place is told, `part of` the nodes whose rule reads it, or why it stays outside.
    """

    node: str
    op: str
    partition: int
    outcome: str
    module: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One row per operator node in graph order; prints as a table."""

    rows: tuple[Row, ...]

    @property
    def delegated(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.partition >= 0)

    @property
    def left_out(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.partition < 0)

    def __str__(self) -> str:
        """A table of every node, then how often each reason keeps one out."""
        header = ("node", "operator", "module", "delegate", "outcome")
        cells = [
            (row.node, row.op, row.module, str(row.partition) if row.partition >= 0 else "-", row.outcome)
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in [header, *cells]) for column in range(4)]
        lines = [
            "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[4]])
            for line in [header, *cells]
        ]
        lines.append(f"{len(self.delegated)} of {len(self.rows)} nodes delegated")
        counts = Counter(row.outcome for row in self.left_out)
        lines += [
            f"{count:6} left out: {reason}" for reason, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
        ]
        return "\n".join(lines) + "\n"


def explain(program: ExportedProgram, options: CompileOptions | None = None) -> Explanation:
    """What the partitioner would do with each node of an exported program.

    What torch.export returned goes through to_edge_transform_and_lower up to the partitioner, so that the nodes are the
    ones that it gets to see; a program of the edge dialect is explained as it is. options: the ones that will be given
    to the partitioner.
    """
    chosen = options or CompileOptions()
    weights: dict[str, torch.Tensor] = {}
    if program.verifier.dialect != "EDGE":
        program, weights = _as_partitioned(program, chosen)
    matching = match_program(program, chosen, weights)
    taken, groups = matching.taken(), group_anchors(program, matching)
    partition = {anchor: index for index, group in enumerate(groups) for anchor in group}
    kernels: dict[Node, str] = {}
    for group in groups:
        kernels |= _kernels(Lowering(program, chosen, weights), matching, group)
    rows = []
    for node in program.graph.nodes:
        if node.op != "call_function" or (node not in taken and is_arithmetic(node)):
            continue
        if node in matching.lowered:
            index, outcome = partition[node], kernels[node] or _fused_into(node, kernels)
        elif node in taken:
            index, outcome = partition[taken[node][0]], "part of " + ", ".join(anchor.name for anchor in taken[node])
        else:
            index, outcome = -1, matching.reasons[node]
        rows.append(Row(node.name, op_name(node), index, outcome, _module(node)))
    return Explanation(tuple(rows))


class _Seen(Exception):
    """Ends a lowering when the partitioner has its program."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__("partition() was called")
        self.program = program


class _Watcher(Partitioner):
    """Asks for what our partitioner asks for, and stops at its turn."""

    def __init__(self, inner: ZeropointPartitioner) -> None:
        super().__init__()
        self.inner, self.delegation_spec = inner, inner.delegation_spec

    def transform_for_pre_decomposition(self, exported_program: ExportedProgram) -> ExportedProgram:
        return self.inner.transform_for_pre_decomposition(exported_program)

    def ops_to_not_decompose(
        self, ep: ExportedProgram
    ) -> tuple[list[torch._ops.OpOverload], Callable[[Node], bool] | None]:
        return self.inner.ops_to_not_decompose(ep)

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        raise _Seen(exported_program)


def _as_partitioned(
    program: ExportedProgram, options: CompileOptions
) -> tuple[ExportedProgram, dict[str, torch.Tensor]]:
    """The program that the documented call shows the partitioner, and the weights that it remembers beside it."""
    inner = ZeropointPartitioner(options)
    try:
        to_edge_transform_and_lower(program, partitioner=[_Watcher(inner)])
    except _Seen as seen:
        return seen.program, inner._take_weights(seen.program)
    raise AssertionError("to_edge_transform_and_lower called no partitioner")


def _module(node: Node) -> str:
    """The name of the innermost module that a node was traced in; of the outermost one, nothing."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(name) for name, _ in stack.values()]
    return names[-1] if names else ""


def _kernels(lowering: Lowering, matching: Matching, group: list[Node]) -> dict[Node, str]:
    """The kernels that each anchor of a delegate still calls once those that fuse have replaced others."""
    members, calls = set(group), {}
    inner = {node for anchor in group for node in matching.lowered[anchor].nodes}
    try:
        for node in lowering.program.graph.nodes:
            if node in members:
                first = lowering.builder.n_calls()
                lower_node(node, lowering)
                calls[node] = range(first, lowering.builder.n_calls())
        for node in group:
            if any(user not in inner for user in node.users):
                lowering.builder.output(lowering.result(node))
    except Unsupported:  # only what stands before the failure is known
        return {node: " + ".join(matching.lowered[node].kernels) for node in group}
    return _by_node(fuse(lowering.builder, lowering.options), calls)


def _by_node(draft: Draft, calls: dict[Node, range]) -> dict[Node, str]:
    """The kernels of each node, in words: a call that stands for several nodes' calls is the last one's."""
    owner = {index: node for node, own in calls.items() for index in own}

    def names(groups: list[list[Step]]) -> dict[Node, list[str]]:
        found: dict[Node, list[str]] = {node: [] for node in calls}
        for steps in groups:
            node = owner.get(max(origin for step in steps for origin in step.origins))
            if node is not None:  # none of a copy for an output
                found[node] += [step.call.kernel for step in steps]
        return found

    plain = names([[step] for step in draft.steps])
    fused = names([item.fused for item in draft.alternatives])
    return {node: ", or ".join(" + ".join(dict.fromkeys(x)) for x in (plain[node], fused[node]) if x) for node in calls}


def _fused_into(node: Node, kernels: dict[Node, str]) -> str:
    """The first node downstream that has calls of its own; an operator that only says where a value lies has none."""
    pending = [] if op_name(node) in SHARING else list(node.users)
    for user in pending:
        if user not in kernels:
            continue
        if kernels[user]:
            return f"fused into {user.name}"
        pending += [later for later in user.users if later not in pending]
    return "no call"

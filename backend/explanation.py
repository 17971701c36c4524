"""Why each node of a program runs where it runs, before anything is lowered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch.export import ExportedProgram

from .matching import group_anchors, is_arithmetic, match_program
from .options import CompileOptions
from .rules.graph import op_name


@dataclass(frozen=True, slots=True)
class Row:
    """One operator node. partition: the delegate it falls into, or -1. outcome: kernels, `part of ...`, or why not."""

    node: str
    op: str
    partition: int
    outcome: str


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
        header = ("node", "operator", "delegate", "outcome")
        cells = [
            (row.node, row.op, str(row.partition) if row.partition >= 0 else "-", row.outcome) for row in self.rows
        ]
        widths = [max(len(line[column]) for line in [header, *cells]) for column in range(3)]
        lines = [
            "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[3]])
            for line in [header, *cells]
        ]
        lines.append(f"{len(self.delegated)} of {len(self.rows)} nodes delegated")
        counts = Counter(row.outcome for row in self.left_out)
        lines += [
            f"{count:6} left out: {reason}" for reason, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
        ]
        return "\n".join(lines) + "\n"


def explain(program: ExportedProgram, options: CompileOptions | None = None) -> Explanation:
    """What the partitioner would do with each node of an exported program of either dialect.

    What torch.export returned is explained in its functional form, which is what the partitioner gets to see.
    options: the ones that will be given to the partitioner.
    """
    if program.verifier.dialect != "EDGE":
        program = program.run_decompositions({})
    matching = match_program(program, options or CompileOptions())
    taken = matching.taken()
    partition = {anchor: index for index, group in enumerate(group_anchors(program, matching)) for anchor in group}
    rows = []
    for node in program.graph.nodes:
        if node.op != "call_function" or (node not in taken and is_arithmetic(node)):
            continue
        if node in matching.lowered:
            index, outcome = partition[node], " + ".join(matching.lowered[node].kernels)
        elif node in taken:
            index, outcome = partition[taken[node][0]], "part of " + ", ".join(anchor.name for anchor in taken[node])
        else:
            index, outcome = -1, matching.reasons[node]
        rows.append(Row(node.name, op_name(node), index, outcome))
    return Explanation(tuple(rows))

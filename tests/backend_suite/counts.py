"""How many cases of the suite passed, stayed undelegated, were skipped and failed; prints as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from executorch.backends.test.suite.reporting import TestCaseSummary, TestResult

_COLUMNS = ("cases", "delegated", "undelegated", "skipped", "failed")
_HEADER = ("flow", *_COLUMNS)


@dataclass(frozen=True, slots=True)
class Case:
    """One model that a test of the suite lowered and ran. detail: why it was skipped or failed."""

    test: str
    flow: str
    column: str
    detail: str = ""


def read_case(summary: TestCaseSummary) -> Case:
    """What the suite says of one case."""
    if summary.result is TestResult.SUCCESS:
        return Case(summary.name, summary.flow, "delegated")
    if summary.result is TestResult.SUCCESS_UNDELEGATED:
        return Case(summary.name, summary.flow, "undelegated")
    if summary.result is TestResult.SKIPPED:
        return Case(summary.name, summary.flow, "skipped", _why_skipped(summary))
    return Case(summary.name, summary.flow, "failed", f"{summary.result.display_name()}: {summary.error}")


def _why_skipped(summary: TestCaseSummary) -> str:
    """The suite skips what PyTorch itself refuses, and programs whose left operators ExecuTorch's CPU cannot run."""
    if summary.error is not None:
        return "PyTorch itself refuses it"
    left = sorted(summary.undelegated_op_counts or ())
    return f"ExecuTorch's CPU kernels cannot run what is left: {', '.join(left)}"


def format_counts(cases: Sequence[Case]) -> str:
    """A row per flow, then how often each reason skipped a case, then every failure."""
    rows = [_HEADER]
    for flow in sorted({case.flow for case in cases}):
        found = Counter(case.column for case in cases if case.flow == flow)
        rows.append((flow, str(found.total()), *(str(found[column]) for column in _COLUMNS[1:])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:],
             strict=True))]) for row in rows]  # fmt: skip
    reasons = Counter(case.detail for case in cases if case.column == "skipped")
    lines += [f"{count:6} skipped: {reason}" for reason, count in sorted(reasons.items(), key=lambda c: (-c[1], c[0]))]
    lines += [f"failed: {case.test}: {case.detail}" for case in cases if case.column == "failed"]
    return "\n".join(lines) + "\n"

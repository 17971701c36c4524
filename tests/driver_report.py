"""A pytest plugin for scripts/test_drivers.sh: what a driver passed, refused and failed, and the integers that it gave.

A test that a device refuses for want of a fact counts by the fact. Nothing else loads this: in `make test` a refusal is
a failure. One that a test's own environment brings about is, here, too.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

import zeropoint
from tests.op import integers
from tests.op.calls import chosen_device, device_facts
from zeropoint.errors import ZeropointError

_NEEDS = re.compile(r"cannot run it: .*?needs (?P<fact>[a-z0-9_]+)$")
_REFUSED = "refused: needs "
_LIMITS = os.environ.get("ZEROPOINT_LIMITS")  # of the whole run


def reason_of(error: BaseException) -> str | None:
    """The fact that a refusal names, when the device really lacks it. ExecuTorch's errors do not, the player's do."""
    text = str(error) if isinstance(error, ZeropointError) else ""
    if isinstance(error, RuntimeError) and str(error).startswith("Failed to load method"):
        text = zeropoint.last_error()
    found = _NEEDS.search(text.splitlines()[0]) if text else None
    disabled = os.environ.get("ZEROPOINT_DISABLE", "").split(",")
    if found is None or found["fact"] in disabled or os.environ.get("ZEROPOINT_LIMITS") != _LIMITS:
        return None
    return None if device_facts().get(found["fact"], 1) else found["fact"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo is not None and (fact := reason_of(call.excinfo.value)) is not None:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"{_REFUSED}{fact}")
    if call.when == "call" and (seen := integers.take()) and report.passed:
        report.user_properties.append(("integers", seen))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Writes the driver's row to the file ZEROPOINT_TABLE, and the integers of its tests beside it."""
    stats = terminalreporter.stats
    reasons = Counter[str]()
    for report in stats.get("skipped", []):
        text = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if text.startswith(_REFUSED):
            reasons[text.removeprefix(_REFUSED)] += 1
    refused = ", ".join(f"{count} without {fact}" for fact, count in sorted(reasons.items())) or "0"
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    passed = stats.get("passed", [])
    device = chosen_device()
    table = Path(os.environ["ZEROPOINT_TABLE"])
    table.write_text(f"| {device.name}, {device.driver} | {len(passed)} | {refused} | {failed} |\n")
    lines = [
        f"{seen} {report.nodeid}\n" for report in passed for name, seen in report.user_properties if name == "integers"
    ]
    table.with_suffix(".integers").write_text("".join(sorted(lines)))

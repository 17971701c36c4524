"""A pytest plugin for scripts/test_drivers.sh: tests that a device refuses for want of a fact count by the reason.

Nothing else loads it: in `make test` a refusal is a failure. One that a test's own environment brings about is, too.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

from zeropoint.errors import ZeropointError
from zeropoint.runtime.devices import devices

_NEEDS = re.compile(r"cannot run it: .*?needs (?P<fact>[a-z0-9_]+)$")
_REFUSED = "refused: needs "


def reason_of(error: BaseException) -> str | None:
    """The fact that a refusal names, when the device really lacks it."""
    found = _NEEDS.search(str(error).splitlines()[0]) if isinstance(error, ZeropointError) else None
    disabled = os.environ.get("ZEROPOINT_DISABLE", "").split(",")
    if found is None or found["fact"] in disabled or os.environ.get("ZEROPOINT_LIMITS"):
        return None
    return found["fact"] if all(not device.facts.get(found["fact"], 1) for device in devices()) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo is not None and (fact := reason_of(call.excinfo.value)) is not None:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"{_REFUSED}{fact}")
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Appends the driver's row to the file ZEROPOINT_TABLE."""
    stats = terminalreporter.stats
    reasons = Counter[str]()
    for report in stats.get("skipped", []):
        text = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if text.startswith(_REFUSED):
            reasons[text.removeprefix(_REFUSED)] += 1
    refused = ", ".join(f"{count} without {fact}" for fact, count in sorted(reasons.items())) or "0"
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    (device, *_) = devices()
    row = f"| {device.name}, {device.driver} | {len(stats.get('passed', []))} | {refused} | {failed} |\n"
    Path(os.environ["ZEROPOINT_TABLE"]).write_text(row)

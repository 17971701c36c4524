"""pytest plugin: ExecuTorch's backend test suite, as its wheel has it, with our flows; prints what came of the cases.

    python -m pytest -p tests.backend_suite.plugin --pyargs executorch.backends.test.suite.operators

The suite's conftest makes its tests from `all_flows()`, a fixed list: there is no way to register a flow, so the
function is replaced before the conftest is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator

import pytest
from executorch.backends.test.suite import flow as suite_flow
from executorch.backends.test.suite.reporting import begin_test_session

import zeropoint
from tests.backend_suite.counts import Case, format_counts, read_case
from tests.backend_suite.flows import BACKEND, make_flows
from zeropoint.runtime import player

_SEED = 0  # without a session of the suite its inputs would be others in every run
_PROPERTY = "case"
_LINEARS = "test_linear"  # what quantization changes; elsewhere its flow would repeat the plain one


def pytest_load_initial_conftests() -> None:
    suite_flow.all_flows = make_flows


def pytest_configure(config: pytest.Config) -> None:
    for marker in (*(f"flow_{name}" for name in make_flows()), f"backend_{BACKEND}", "timeout(seconds)"):
        config.addinivalue_line("markers", f"{marker}: set by the suite")
    config.pluginmanager.register(_Counter(), "backend_suite_counter")
    begin_test_session(None, seed=_SEED)
    zeropoint.register()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Quantizes only what has a linear."""
    kept, dropped = [], []
    for item in items:
        quantizes = item.callspec.params["test_runner"].quantize
        (dropped if quantizes and item.module.__name__.split(".")[-1] != _LINEARS else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


@pytest.fixture(autouse=True)
def no_validation_message() -> Iterator[None]:
    yield
    found = player.validation(clear=True)
    assert found.count == 0, found.messages[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Generator[None, None, None]:
    """Sends the cases of a test with its report: under xdist it is counted in another process."""
    try:
        return (yield)
    finally:
        for summary in item.funcargs["test_runner"]._results:
            item.user_properties.append((_PROPERTY, dataclasses.asdict(read_case(summary))))


class _Counter:
    """Collects the cases of every report."""

    def __init__(self) -> None:
        self._cases: list[Case] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        flow = report.nodeid.partition("[")[2].rstrip("]").split("-")[0]
        found = [Case(**value) for name, value in report.user_properties if name == _PROPERTY]
        if report.when == "call":
            self._cases += found
        if report.failed and not any(case.column == "failed" for case in found):  # setup, validation, or a crash
            self._cases.append(Case(report.nodeid, flow, "failed", report.longreprtext.splitlines()[-1]))
        if report.skipped and not found:
            assert isinstance(report.longrepr, tuple), report.longrepr
            self._cases.append(Case(report.nodeid, flow, "skipped", report.longrepr[2].removeprefix("Skipped: ")))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("ExecuTorch's backend test suite")
        terminalreporter.write(format_counts(self._cases))

"""The flows, the plugin and the table on a few operators; `make backend-suite` runs them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from executorch.backends.test.suite.reporting import TestCaseSummary, TestResult
from executorch.backends.test.suite.runner import run_test

import zeropoint
from tests.backend_suite.counts import Case, format_counts, read_case
from tests.backend_suite.flows import ZeropointTester, make_flows

REPO = Path(__file__).parents[2]
OPERATORS = "executorch.backends.test.suite.operators"


def run(flow: str, module: torch.nn.Module, *inputs: torch.Tensor) -> TestCaseSummary:
    zeropoint.register()
    return run_test(module, inputs, make_flows()[flow], "test", "test", 0, None)


def test_the_suite_of_the_wheel_runs_with_our_flow() -> None:
    """abs is delegated, elu has no rule; linear is quantized too."""
    names = [f"{OPERATORS}.test_{name}" for name in ("abs", "elu", "linear")]
    command = [sys.executable, "-m", "pytest", "-p", "tests.backend_suite.plugin", "-c", "pyproject.toml", "--rootdir",
               ".", "-q", "-k", "dtype or unbatched", "--pyargs", *names]  # fmt: skip
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith("zeropoint")}
    assert rows == {"zeropoint": ["5", "2", "1", "2", "0"], "zeropoint_8da4w": ["3", "1", "0", "2", "0"]}, done.stdout


def test_the_quantized_flow_delegates_the_quantized_linear() -> None:
    found = run("zeropoint_8da4w", torch.nn.Linear(64, 8), torch.randn(3, 64))
    assert found.result is TestResult.SUCCESS, found.error
    assert found.delegated_op_counts is not None
    assert "torchao::dequantize_affine" in found.delegated_op_counts
    assert not found.undelegated_op_counts


def test_an_error_that_the_suite_would_tolerate_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ZeropointTester._calculate_reference_output

    def shifted(program: torch.export.ExportedProgram, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, None]:
        return exact(program, inputs)[0] + 1e-3, None

    monkeypatch.setattr(ZeropointTester, "_calculate_reference_output", staticmethod(shifted))
    found = run("zeropoint", torch.nn.ReLU(), torch.randn(3))
    assert found.result is TestResult.OUTPUT_MISMATCH_FAIL
    assert read_case(found).column == "failed"


def test_what_pytorch_refuses_is_skipped() -> None:
    found = read_case(run("zeropoint", torch.nn.Linear(3, 2), torch.randn(5)))
    assert (found.column, found.detail) == ("skipped", "PyTorch itself refuses it")


def test_table() -> None:
    cases = [Case("a", "plain", "delegated"), Case("b", "plain", "undelegated"), Case("c", "other", "skipped", "why")]
    assert format_counts([*cases, Case("d", "other", "failed", "Fail (Lowering): what")]) == (
        "flow   cases  delegated  undelegated  skipped  failed\n"
        "other      2          0            0        1       1\n"
        "plain      2          1            1        0       0\n"
        "     1 skipped: why\n"
        "failed: d: Fail (Lowering): what\n"
    )

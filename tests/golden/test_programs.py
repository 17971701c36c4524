"""A .pte written by an earlier version loads, and still computes what eager PyTorch computed then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import zeropoint
from tests.e2e.running import Method, relative_rms
from zeropoint.kernels._generated.signatures import SIGNATURES

FILES = sorted(Path(__file__).parent.glob("v*/*.pte"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_its_kernels_are_read_by_the_names_that_they_have_now(path: Path) -> None:
    programs = zeropoint.inspect(path).programs
    kernels = {call.kernel for program in programs for call in program.calls}
    assert kernels <= SIGNATURES.keys()
    assert {"linear_dq8ca", "linear_qgsw"} <= kernels


def test_there_are_programs() -> None:
    assert [f"{path.parent.name}/{path.name}" for path in FILES][:2] == ["v1/buffer.pte", "v1/image.pte"]


@pytest.mark.parametrize(
    ("path", "disabled"),
    [
        *(pytest.param(path, "", id=f"{path.parent.name}-{path.stem}") for path in FILES),
        pytest.param(FILES[-1], "is_cpu", id="alternatives"),
    ],
)
def test_program(path: Path, disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    stored = np.load(path.with_name("expected.npz"))
    method = Method(path.read_bytes())
    inputs = [torch.from_numpy(stored[name]) for name in ("x", "ids") if name in stored]
    for rows in (1, 5, len(inputs[0])):
        outputs = method(*(given[:rows] for given in inputs))
        assert len(outputs) == len(stored.files) - len(inputs)
        for index, actual in enumerate(outputs):
            assert relative_rms(actual, torch.from_numpy(stored[f"y{index}"][:rows])) <= 1e-6

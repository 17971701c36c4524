"""Every example runs and ends well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import smollm2

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, check=False, cwd=folder, env=os.environ
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_all_are_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.suffix == ".py") == [
        "01_linear_8da4w.py",
        "02_smollm2.py",
    ]


def test_linear(tmp_path: Path) -> None:
    assert "linear_dq8ca" in run("01_linear_8da4w.py", tmp_path)


@pytest.fixture
def folder_with_smollm2(tmp_path: Path) -> Path:
    for path in smollm2.exported(smollm2.INT8, None).parent.iterdir():
        shutil.copy(path, tmp_path)  # copies are newer than the package, so the example does not export again
    return tmp_path


@pytest.mark.slow
def test_smollm2(folder_with_smollm2: Path) -> None:
    output = run("02_smollm2.py", folder_with_smollm2)
    assert "Exporting" not in output
    for line in ("linears on the device: 211 of 211", "zero points:           i8", "device: ", "tokens per second: "):
        assert line in output

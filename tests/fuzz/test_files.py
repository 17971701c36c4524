"""Damaged files and no files at all: every command says one line, with an exit code that is not 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.unit.llm.small import METADATA, VOCABULARY, write
from zeropoint.cli.main import main
from zeropoint.runtime.library import library_path

COMMANDS = ("inspect", "run", "verify", "generate", "zeropoint-run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small.pte, a text model with a CPU operator's worth of constant methods; its tokenizer; inputs."""
    path = tmp_path_factory.mktemp("files")
    write(path / "small.pte", METADATA)
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(path / "small.tokenizer.json"))
    np.save(path / "ids.npy", np.array([[2, 3, 4]]))
    np.save(path / "positions.npy", np.arange(3))
    return path


def damaged(folder: Path, rounds: int, seed: int) -> dict[str, dict[str, int]]:
    """The exit codes of each command over the damages, none of which may crash, hang or show a traceback."""
    script = Path(__file__).with_name("files.py")
    done = subprocess.run(
        [sys.executable, script, folder, str(rounds), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ZEROPOINT_VALIDATION": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == []
    assert {name: sum(codes.values()) for name, codes in found["codes"].items()} == dict.fromkeys(COMMANDS, rounds)
    codes: dict[str, dict[str, int]] = found["codes"]
    return codes


def test_damaged_files(folder: Path) -> None:
    for codes in damaged(folder, 40, 0).values():
        assert 40 - codes["0"] > 10, "the damage is too fine to be seen"
        assert codes["0"] > 2, "the damage is too coarse to reach past the first check"


@pytest.mark.slow
def test_300_damaged_files(folder: Path) -> None:
    damaged(folder, 300, 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_program_at_all(command: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.pte").mkdir()
    (tmp_path / "empty.pte").write_bytes(b"")
    (tmp_path / "text.pte").write_text("no program, but longer than a header has to be" * 9)
    (tmp_path / "unreadable.pte").symlink_to("/proc/self/mem")  # for root, who may read anything else
    options = {
        "run": ["--input", str(folder / "ids.npy")],
        "verify": ["--input", str(folder / "ids.npy")],
        "generate": ["--prompt", "w2", "--tokenizer", str(folder / "small.tokenizer.json")],
    }
    for name in ("missing", "folder", "empty", "text", "unreadable"):
        path = str(tmp_path / f"{name}.pte")
        if command == "zeropoint-run":
            runner = library_path().with_name("zeropoint-run")
            done = subprocess.run([runner, path], capture_output=True, text=True, check=False)
            code, errors = done.returncode, done.stderr
        else:
            result = CliRunner().invoke(main, [command, path, *options.get(command, [])])
            code, errors = result.exit_code, result.output
            assert isinstance(result.exception, SystemExit), result.exception
        assert code in (1, 2)
        (line,) = errors.splitlines()
        assert f"{name}.pte" in line

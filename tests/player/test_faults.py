"""Vulkan calls that fail: an error with the call's name, nothing lost, and the process goes on. A barrier left out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import newer_layers
from zeropoint.runtime.devices import devices

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="faulty_loader.c passes arguments on for x86-64")
HERE = Path(__file__).parent
# Two calls, the second of which reads what the first wrote, with no barrier at all.
WITHOUT_BARRIERS = """
from tests.player import test_player
from tests.player.faulty import loader
from zeropoint.runtime.player import LoadedProgram, validation
loader.zp_arm(b"vkCmdPipelineBarrier", {call}, 0)
with LoadedProgram(test_player.quantize()) as loaded:
    loaded.execute([test_player.rows_of(7)])
print(loader.zp_calls(b"vkCmdPipelineBarrier"), *validation(clear=True).messages, sep="\\n")
"""

# Runs, the first of which tell how long one takes. The fence's status says each time that the device is lost.
SHORT_RUNS = """
import os
from tests.player import test_player
from tests.player.faulty import loader
from zeropoint.runtime.player import LoadedProgram
x = test_player.rows_of(7)
with LoadedProgram(test_player.quantize()) as loaded:
    wanted = [y.tobytes() for y in loaded.execute([x])]
    loader.zp_arm(b"vkGetFenceStatus", 0, {result})
    assert all([y.tobytes() for y in loaded.execute([x])] == wanted for _ in range(9))
print(loader.zp_calls(b"vkGetFenceStatus"))
"""


def real_loader() -> str:
    """The path of this process's libvulkan.so.1, which opening the devices loads."""
    assert devices()
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in maps if "/libvulkan.so" in line)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process whose loader fails on demand."""
    folder = tmp_path_factory.mktemp("faulty")
    source = HERE / "faulty_loader.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", folder / "libvulkan.so.1", source, "-ldl"], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "REAL_LOADER": real_loader()}


def run(environment: dict[str, str], *arguments: str, python: Sequence[str] = (sys.executable,)) -> str:
    done = subprocess.run(
        [*python, *arguments], env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    "variables", [{}, {"ZEROPOINT_STAGING": "1", "ZEROPOINT_SLICE_MS": "1e-9"}], ids=["", "staging"]
)
def test_every_call_fails_once(environment: dict[str, str], tmp_path: Path, variables: dict[str, str]) -> None:
    """Of opening a device, loading, running at two shapes and unloading; and the device is lost in a run.

    With staging, each call is a submit of its own, too, and inputs go to the host's memory where the device has none
    for them.

    A loaded program whose new shape fails goes on, too; on a lost device it and all others say what to do.
    """
    own = {"ZEROPOINT_CACHE_DIR": str(tmp_path), **variables}
    found = json.loads(run(environment | own, "-m", "tests.player.faults"))
    assert found["wrong"] == []
    own = bool(variables) or devices()[0].type == "discrete"
    assert [what.split()[0] for what in found["without"]] == ["vkAllocateMemory"] * (2 * own)
    assert len(found["calls"]) >= 27
    assert min(found["calls"].values()) > 0
    assert found["of_a_shape"]["vkQueueSubmit"] == (8 if variables else 2)  # lost, and out of memory
    memory = {"vkAllocateMemory", "vkCreateComputePipelines", "vkAllocateDescriptorSets", "vkAllocateCommandBuffers"}
    assert memory | {"vkQueueSubmit"} <= found["of_a_shape"].keys()


@pytest.mark.parametrize("layers", ["installed", "newer"])
def test_a_missing_barrier_is_reported(environment: dict[str, str], layers: str) -> None:
    """By the validation layers, which are what says that none is missing. Layers of 2025 have to be asked to."""
    python = [sys.executable]
    if layers == "newer":
        python = newer_layers.python(environment["LD_LIBRARY_PATH"])
        environment = {**environment, **newer_layers.environment()}
    calls, *messages = run(environment, "-c", WITHOUT_BARRIERS.format(call=0), python=python).splitlines()
    assert int(calls) > 0
    assert any("SYNC-HAZARD-READ" in message or "READ_AFTER_WRITE hazard" in message for message in messages)
    _, *messages = run(environment, "-c", WITHOUT_BARRIERS.format(call=10**6), python=python).splitlines()
    assert messages == []


@pytest.mark.parametrize(
    ("staging", "result", "asked"),
    [("", 1, False), ("1", 1, True), ("1", -4, True)],
    ids=["none", "asked", "the answer is an error"],
)
def test_a_short_run_of_a_discrete_device_is_asked_for(
    environment: dict[str, str], staging: str, result: int, asked: bool
) -> None:
    """And not slept for; whether it is done, or the device lost, the wait after that decides."""
    own = {"ZEROPOINT_STAGING": staging} if staging else {}
    asked = asked or devices()[0].type == "discrete"
    calls = int(run(environment | own, "-c", SHORT_RUNS.format(result=result)))
    assert (calls >= 3) == asked
    assert asked or calls == 0

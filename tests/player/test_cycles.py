"""Programs that are loaded and dropped again and again leave nothing behind: no memory, no file descriptor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Of the player, and of ExecuTorch, whose `Runtime` keeps the program and loads a method of it.
CYCLES = """
import gc, json, os, sys
from pathlib import Path
from tests.player import faults
from zeropoint.runtime.player import LoadedProgram, counters

n, way = int(sys.argv[1]), sys.argv[2]
if way == "player":
    made = faults.program()

    def cycle():
        with LoadedProgram(*made) as loaded:
            loaded.execute([faults.x])
else:
    import numpy as np
    import torch
    from executorch.runtime import Runtime
    import zeropoint

    golden = Path("tests/golden/v4")
    stored = np.load(golden / "expected.npz")
    inputs = [torch.from_numpy(stored[name])[:3] for name in ("x", "ids")]
    blob = (golden / "buffer.pte").read_bytes()
    zeropoint.register()

    def cycle():
        Runtime.get().load_program(blob).load_method("forward").execute(inputs)

def now():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), counters()["device_bytes"]

for _ in range(n // 5):
    cycle()
before = now()
for _ in range(n - n // 5):
    cycle()
print(json.dumps([before, now()]))
"""


@pytest.fixture(autouse=True)
def quiet_layers() -> None:
    """The device is another process's: this one has no messages to look at."""


@pytest.mark.parametrize(
    ("cycles", "way"),
    [(300, "player"), *(pytest.param(1000, way, marks=pytest.mark.slow) for way in ("player", "executorch"))],
)
def test_cycles(way: str, cycles: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CYCLES, str(cycles), way],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "ZEROPOINT_VALIDATION": "0"},  # the layers' own memory grows
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (bytes_before, *before), (bytes_after, *after) = json.loads(done.stdout.splitlines()[-1])
    assert after == before
    assert bytes_after - bytes_before < 4 << 20, "a page a cycle"

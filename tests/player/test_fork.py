"""Vulkan does not survive a fork: a child is told so at once, and its parent goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.models import Activations, Linears, Weights
from tests.e2e.running import export, lower, rows_of

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from executorch.runtime import Runtime
import zeropoint

zeropoint.register()
program = Runtime.get().load_program(sys.argv[1])
method, x = program.load_method("forward"), torch.load(sys.argv[2])
before = method.execute([x])[0].clone()
child = os.fork()
if child == 0:
    signal.alarm(60)  # it used to wait for ever
    for call in (lambda: method.execute([x]), lambda: Runtime.get().load_program(sys.argv[1]).load_method("forward")):
        try:
            call()
        except RuntimeError:
            print(zeropoint.last_error(), flush=True)
    try:
        zeropoint.reset_states()
    except zeropoint.RuntimeFailure as error:
        print(error, flush=True)
    del method, program
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert torch.equal(method.execute([x])[0], before)
print("right")
"""


@pytest.fixture(autouse=True)
def quiet_layers() -> None:
    """The device is another process's: this one has no messages to look at."""


def test_a_child_is_refused_and_the_parent_goes_on(tmp_path: Path) -> None:
    module = Linears(64, Activations(), (Weights(n=24, group_size=32),))
    (tmp_path / "linear.pte").write_bytes(lower(export(module, rows_of(64, 4)))[0])
    torch.save(rows_of(64, 4), tmp_path / "x.pt")
    command = [sys.executable, "-c", SCRIPT, tmp_path / "linear.pte", tmp_path / "x.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *refusals, last = done.stdout.splitlines()
    assert last == "right"
    assert len(refusals) == 3
    for line in refusals:
        assert line.startswith("this process was forked from one that had opened Vulkan already")
        assert line.endswith('use spawn: multiprocessing.get_context("spawn")')

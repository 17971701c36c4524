#!/usr/bin/env bash
# ExecuTorch 1.5.1, Runtime.load_program: the methods of one program use one planned memory. With to_executorch's
# defaults a mutable buffer lies there too, so another method's call, even of one without any buffer, writes over it:
# counters that should read 1, 100, 2, 200 read 1, 101, 102, 202, and 8 after a method that only computes.
# MemoryPlanningPass(share_mutable_buffers=True) keeps buffers of different names apart, and makes one buffer of those
# that have one name, though the modules have nothing to do with each other. Nothing warns in any case.
# Source: executorch/runtime/__init__.py, executorch/exir/memory_planning.py. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 executorch==1.5.1 torchao==0.18.0
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import torch
from executorch.exir import ExecutorchBackendConfig, to_edge
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass
from executorch.runtime import Runtime


class Counter(torch.nn.Module):
    def __init__(self, name, step):
        super().__init__()
        self.register_buffer(name, torch.zeros(1))
        self.name, self.step = name, step

    def forward(self, x):
        return x + getattr(self, self.name).add_(self.step)


class Stateless(torch.nn.Module):
    def forward(self, x):
        return (2 * x + 7).exp()


def readings(names, shared):
    modules = {"first": Counter(names[0], 1), "second": Counter(names[1], 100), "third": Stateless()}
    inputs = {"first": 1, "second": 1, "third": 8}
    programs = {name: torch.export.export(module, (torch.zeros(inputs[name]),)) for name, module in modules.items()}
    config = ExecutorchBackendConfig(
        passes=[InitializedMutableBufferPass(sorted(set(names)))],
        memory_planning_pass=MemoryPlanningPass(share_mutable_buffers=shared),
    )
    program = Runtime.get().load_program(to_edge(programs).to_executorch(config).buffer)
    methods = {name: program.load_method(name) for name in modules}
    found = []
    for name in ("first", "second", "first", "second", "third", "first"):
        result = methods[name].execute([torch.zeros(inputs[name])])[0]
        found += [result.item()] if name != "third" else []
    return found


print("executorch", version("executorch"), "torch", torch.__version__)
found = {}
for names in (("apples", "pears"), ("state", "state")):
    for shared in (False, True):
        found[names[0], shared] = readings(names, shared)
        print(f"buffers {names}, share_mutable_buffers={shared}: {found[names[0], shared]}")
print("two counters of steps 1 and 100 would read [1, 100, 2, 200, 3]")
as_described = (
    found["apples", False] == found["state", False] == [1, 101, 102, 202, 8]
    and found["apples", True] == [1, 100, 2, 200, 3]
    and found["state", True] == [1, 101, 102, 202, 203]
)
sys.exit(not as_described)
PY

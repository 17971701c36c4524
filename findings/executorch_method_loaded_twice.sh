#!/usr/bin/env bash
# executorch.runtime 1.5.1: Program.load_method keeps what it has loaded and gives the same Method to every later call,
# also after the first was dropped. So two "instances" of a method with a mutable buffer (a KV cache) are one, and two
# conversations write over each other; the lower binding underneath makes a new one each time. A second load_program of
# the file gives states of its own. Source: executorch/runtime/__init__.py. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 executorch==1.5.1 torchao==0.18.0
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import gc
import sys
from importlib.metadata import version

import torch
from executorch.exir import to_edge
from executorch.exir.capture._config import ExecutorchBackendConfig
from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass
from executorch.runtime import Runtime


class Counter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count.add_(x)
        return self.count.clone()


def call(method):
    return method.execute([torch.ones(1)])[0].item()


print("torch", torch.__version__, "executorch", version("executorch"))
edge = to_edge(torch.export.export(Counter(), (torch.ones(1),)))
with open("counter.pte", "wb") as file:
    file.write(edge.to_executorch(ExecutorchBackendConfig(passes=[InitializedMutableBufferPass(["count"])])).buffer)
program = Runtime.get().load_program("counter.pte")
one, two = program.load_method("forward"), program.load_method("forward")
same = one is two
counts = [call(one), call(two), call(one)]
del one, two
gc.collect()
counts.append(call(program.load_method("forward")))
other = Runtime.get().load_program("counter.pte")
counts.append(call(other.load_method("forward")))
print(f"two loads are one object: {same}; counts {counts[:3]}, after dropping both {counts[3]}, another program {counts[4]}")
sys.exit(not (same and counts == [1.0, 2.0, 3.0, 4.0, 1.0]))
PY

#!/usr/bin/env bash
# executorch.runtime 1.5.1: what Method.execute returns are copies of the outputs, each in memory of its own, so an
# earlier result is never overwritten by a later run and needs no clone(). ExecuTorch's C++ Module gives tensors that lie
# in planned memory, which the next run writes, and execute's documentation says nothing of either. The binding
# underneath has an argument that leaves the copy out, which executorch.runtime does not offer: then the earlier
# result changes. Source: executorch/runtime/__init__.py, extension/pybindings. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 executorch==1.5.1 torchao==0.18.0
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import inspect
import sys
from importlib.metadata import version

import torch
from executorch.exir import to_edge
from executorch.runtime import Method, Runtime


class Double(torch.nn.Module):
    def forward(self, x):
        return x * 2


print("torch", torch.__version__, "executorch", version("executorch"))
with open("double.pte", "wb") as file:
    file.write(to_edge(torch.export.export(Double(), (torch.ones(4),))).to_executorch().buffer)
method = Runtime.get().load_program("double.pte").load_method("forward")
first = method.execute([torch.ones(4)])[0]
second = method.execute([torch.full((4,), 5.0)])[0]
kept, apart = first.tolist(), first.data_ptr() != second.data_ptr()
print(f"execute: after another run the first result is {kept}, in memory of its own: {apart}")
planned = method._method([torch.ones(4)], clone_outputs=False)[0]
before = planned.tolist()
method._method([torch.full((4,), 5.0)], clone_outputs=False)
print(f"without copies: the first result was {before}, after another run {planned.tolist()}")
says = "cop" in inspect.getdoc(Method.execute).lower() or "clone" in inspect.getdoc(Method.execute).lower()
print(f"the documentation of execute speaks of copies: {says}")
sys.exit(not (kept == before == [2.0] * 4 and apart and planned.tolist() == [10.0] * 4 and not says))
PY

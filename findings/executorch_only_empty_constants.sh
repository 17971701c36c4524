#!/usr/bin/env bash
# ExecuTorch 1.5.1 writes a program that its own runtime refuses when all constants outside delegates are empty tensors:
# they are numbered, but the segment that would hold their bytes has no entries, and the reader then takes the file for
# one of an older form ("constant_buffer path is disabled", error 0x23). One constant with an element heals it. Empty
# tensors come with transformers' DynamicCache, whose layers begin with torch.tensor([]); a graph may hold them unread.
# Source: executorch/exir/emit/_emitter.py, executorch/runtime/executor/program.cpp. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 executorch==1.5.1 torchao==0.18.0
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import torch
from executorch.exir import to_edge
from executorch.runtime import Runtime


class Join(torch.nn.Module):
    def __init__(self, n_rows):
        super().__init__()
        self.register_buffer("rows", torch.ones(n_rows, 2))

    def forward(self, x):
        return torch.cat([self.rows, x])


print("torch", torch.__version__, "executorch", version("executorch"))
x, found = torch.full((1, 2), 3.0), {}
for n_rows in (0, 1):
    model = Join(n_rows)
    program = to_edge(torch.export.export(model, (x,))).to_executorch()
    with open("join.pte", "wb") as file:
        file.write(program.buffer)
    try:
        (answer,) = Runtime.get().load_program("join.pte").load_method("forward").execute([x])
        found[n_rows] = torch.equal(answer, model(x))
    except RuntimeError as error:
        found[n_rows] = str(error)
    print(f"{n_rows} constant rows: eager {model(x).tolist()}, ExecuTorch {found[n_rows]}")
sys.exit(not ("0x:23" in str(found[0]) and found[1] is True))
PY

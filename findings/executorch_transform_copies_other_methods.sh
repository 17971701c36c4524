#!/usr/bin/env bash
# ExecuTorch 1.5.1: passes given as a dict (EdgeProgramManager.transform, to_edge_transform_and_lower's transform_passes)
# copy every method that the dict leaves out, tensors and all. Two methods whose modules hold one buffer, a cache that one
# writes and the other reads, hold two from then on, so a backend that tells shared buffers by their memory no longer can,
# and weights lie in memory twice. With a list, or with [] for the other methods, nothing is copied.
# Source: executorch/exir/program/_program.py. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 executorch==1.5.1 torchao==0.18.0
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import torch
from executorch.exir import to_edge
from executorch.exir.pass_base import ExportPass


class Writer(torch.nn.Module):
    def __init__(self, cache):
        super().__init__()
        self.register_buffer("cache", cache)

    def forward(self, x):
        self.cache.copy_(x)
        return x + 1


class Reader(Writer):
    def forward(self, x):
        return x + self.cache


print("torch", torch.__version__, "executorch", version("executorch"))
cache, x, found = torch.zeros(4), torch.ones(4), {}
for name, passes in (
    ("list", [ExportPass()]),
    ("dict of one method", {"write": [ExportPass()]}),
    ("dict of both", {"write": [ExportPass()], "read": []}),
):
    programs = {"write": torch.export.export(Writer(cache), (x,)), "read": torch.export.export(Reader(cache), (x,))}
    edge = to_edge(programs).transform(passes)
    places = {edge.exported_program(method).state_dict["cache"].data_ptr() for method in programs}
    found[name] = len(places)
    print(f"passes as a {name}: the cache lies in {len(places)} place(s)")
sys.exit(found != {"list": 1, "dict of one method": 2, "dict of both": 1})
PY

#!/usr/bin/env bash
# torch 2.13: torch.export in strict mode ends by writing the Python functions of its guards, which no exported program
# has or calls: of 32 layers on a dynamic size 261 expressions, four times those of 8 layers, after a search for what they
# have in common (14 of 36 s of the strict export of a decoder of 30 layers). With strict=False none is written.
# Source: _suggest_or_raise_constraint_violation in torch/_dynamo/functional_export.py, build_guard_function and
# PyExprCSEPass in torch/_dynamo/guards.py.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import torch
import torch._dynamo.guards as guards
from torch import nn
from torch.export import Dim

print({"torch": version("torch")})
write, written = guards.build_guard_function, []


def counted(code_parts, closure_args):
    written.append((len(code_parts), sum(map(len, code_parts))))
    return write(code_parts, closure_args)


guards.build_guard_function = counted


class Model(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


found = {}
for strict in (True, False):
    for depth in (8, 32):
        written.clear()
        x = torch.randn(3, 8)
        program = torch.export.export(Model(depth), (x,), dynamic_shapes=({0: Dim("rows", min=1, max=64)},), strict=strict)
        found[strict, depth] = [number for number, _ in written]
        print(f"strict={strict}, {depth} layers: guards and characters of the functions written: {written}")
grows = found[True, 32][0] > 3 * found[True, 8][0]
print("as many more as there are layers:", grows)
sys.exit([len(guards) for guards in found.values()] != [2, 2, 0, 0] or not grows)
PY

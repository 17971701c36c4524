#!/usr/bin/env bash
# torch.export, given the same tensor object for two inputs, makes of them one: every use reads the last, the first has
# no user left. The program answers for other inputs without an error, and wrongly. A clone makes two inputs of it.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PY'
import sys

import torch


class Sum(torch.nn.Module):
    def forward(self, a, b):
        return 2 * a + b


x = torch.ones(3)
a, b = torch.full((3,), 10.0), torch.ones(3)
wanted = Sum()(a, b).tolist()
print("torch", torch.__version__, "eager", wanted)
found = {}
for strict in (False, True):
    for name, example in (("the same tensor", (x, x)), ("a clone", (x, x.clone()))):
        program = torch.export.export(Sum(), example, strict=strict)
        users = [len(node.users) for node in program.graph.find_nodes(op="placeholder")]
        found[strict, name] = program.module()(a, b).tolist()
        print(f"strict={strict}, {name}: users of the inputs {users}, answer {found[strict, name]}")
as_described = all(found[s, "a clone"] == wanted and found[s, "the same tensor"] == [3.0] * 3 for s in (False, True))
sys.exit(not as_described)
PY

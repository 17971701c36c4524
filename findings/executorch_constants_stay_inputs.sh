#!/usr/bin/env bash
# torch.export fixes a bool, a number or a text that it is given as an argument, and yet the ExecuTorch method has an
# input for each: without them, or with another value than at export, set_inputs fails (error 0x12, the reason on stderr).
# Python's runtime hands over no text, so a method that was exported with one cannot be run from Python at all, though
# no operator reads it. Leave such arguments out, or bind them in a module around the model.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 executorch==1.5.1
cd "$folder"
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import torch
from executorch.exir import to_edge
from executorch.runtime import Runtime


class Scaled(torch.nn.Module):
    def forward(self, x, *, double=False, note=None):
        return x * 2 if double else x + 1


def answer(path, given):
    try:
        return Runtime.get().load_program(path).load_method("forward").execute(given)[0].tolist()
    except RuntimeError as error:
        return str(error)[:60]


x = torch.ones(2)
print("torch", torch.__version__, "executorch", version("executorch"))
found = {}
for name, options in (("flag", {"double": False}), ("text", {"double": False, "note": "a"})):
    exported = torch.export.export(Scaled(), (x,), options)
    with open(f"{name}.pte", "wb") as file:
        file.write(to_edge(exported).to_executorch().buffer)
    for given in ([x], [x, *options.values()], [x, True, *list(options.values())[1:]]):
        found[name, len(given), given[1:2] == [True]] = answer(f"{name}.pte", given)
        print(name, given[1:], found[name, len(given), given[1:2] == [True]])
right, refused = [2.0, 2.0], [key for key, value in found.items() if "set_inputs" in value]
as_described = found["flag", 2, False] == right and refused == [("flag", 1, False), ("flag", 2, True), ("text", 1, False)]
as_described &= all("Unsupported python type" in found["text", 3, other] for other in (False, True))
sys.exit(not as_described)
PY

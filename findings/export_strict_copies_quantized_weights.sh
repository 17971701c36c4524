#!/usr/bin/env bash
# torch 2.13 with torchao 0.18: torch.export in strict mode copies each weight that is a tensor subclass of torchao twice,
# data and all, and keeps the copies until the export is done: three times a model's memory, where the same export of
# float weights, or with strict=False, copies none. Source: _clone_input in torch/_dynamo/variables/builder.py, which
# passes over fake tensors alone, asked once when the example value is made and once when the proxy is.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchao==0.18.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_

print({name: version(name) for name in ("torch", "torchao")})
clone, copies = torch.clone, []


def counted(x, **options):
    made = clone(x, **options)
    copies.append((x, made))
    return made


torch.clone = counted
found = {}
for kind in ("float", "quantized"):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    if kind == "quantized":
        quantize_(model, Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32)))
    weights = [model[0].weight, model[2].weight]
    memory = {getattr(weight, "qdata", weight).data_ptr() for weight in weights}
    for strict in (True, False):
        copies.clear()
        torch.export.export(model, (torch.randn(2, 64),), strict=strict)
        data = [(getattr(x, "qdata", x), getattr(made, "qdata", made)) for x, made in copies]
        made = [new for old, new in data if type(old) in (torch.Tensor, nn.Parameter) and old.data_ptr() in memory]
        found[kind, strict] = (len(made), sum(new.data_ptr() not in memory for new in made))
        print(f"{kind}, strict={strict}: {found[kind, strict][0]} clones of 2 weights, {found[kind, strict][1]} of their data")
sys.exit(
    found["quantized", True] != (4, 4) or any(found[key] != (0, 0) for key in found if key != ("quantized", True))
)
PY

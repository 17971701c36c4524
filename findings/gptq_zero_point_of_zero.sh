#!/usr/bin/env bash
# auto-gptq 0.7.1: pack() of an asymmetric weight takes 1 off every zero point before it puts eight of them into a word.
# A zero point of 0 becomes 2^32 - 1, and its ones run over the zero points of the columns behind it in that word: what
# the file then says of them is 0, whatever they were, and the layer's own forward computes with that. Only the columns
# before it, and other words, are as they were. Symmetric weights (zero points of 8) are not touched.
# Source: auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 numpy
"$folder/venv/bin/pip" install -q --no-deps auto-gptq==0.7.1
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import importlib.util
import sys
from importlib.metadata import files, version

import torch

print({name: version(name) for name in ("torch", "auto-gptq")})
(place,) = [file.locate() for file in files("auto-gptq") if file.name == "qlinear_cuda_old.py"]
spec = importlib.util.spec_from_file_location("qlinear", place)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


def packed(zeros):
    """What a file says of the zero points of 32 columns, and a layer's output for ones against its weights'."""
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (32, 32))
    scales = torch.full((32, 1), 0.125)
    linear = torch.nn.Linear(32, 32, bias=False)
    linear.weight.data = (codes - zeros[:, None]) * scales
    layer = module.QuantLinear(4, 32, 32, 32, False)
    layer.pack(linear, scales, zeros[:, None].clone(), torch.zeros(32, dtype=torch.long))
    words = layer.qzeros.long() & 0xFFFFFFFF
    said = [((int(words[0, n // 8]) >> 4 * (n % 8)) + 1) & 15 for n in range(32)]
    x = torch.ones(1, 32)
    return said, float((layer(x) - linear(x)).abs().max())


zeros = torch.full((32,), 8.0)
even, small = packed(zeros)
zeros[2] = 0
found, large = packed(zeros)
print("zero points of 8:           ", even[:16], f"largest error of an output {small:.3f}")
print("the same, but column 2 has 0:", found[:16], f"largest error of an output {large:.3f}")
as_described = even == [8] * 32 and found == [8, 8] + [0] * 6 + [8] * 24 and small < 0.01 < 1 < large
sys.exit(not as_described)
PY

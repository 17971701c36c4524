#!/usr/bin/env bash
# ExecuTorch 1.5.1, extension/llm/export/gguf.py: a group of a Q4_K weight whose scale is 0 but whose minimum is not (all
# its weights are equal and negative) loses the minimum in to_intx_unpacked_to_int8_tensor(): the zero point would be
# minimum / scale, and is 0 where the scale is 0. The weights become 0, where gguf's own dequantize and the same tensor's
# dequantize() give -0.25. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 executorch==1.5.1 torchao==0.18.0 gguf==0.19.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import gguf
import numpy as np
import torch
from executorch.extension.llm.export.gguf import ExportableGGUFTensor

print({name: version(name) for name in ("torch", "executorch", "torchao", "gguf")})


def block(scale, minimum):
    """256 weights: the two factors in float16, eight groups with 1 for each, and codes of 0 to 15."""
    head = np.array([scale, minimum], np.float16).view(np.uint8)
    codes = np.arange(128, dtype=np.uint8)
    ones = np.array([1] * 8 + [0x11] * 4, np.uint8)
    return np.concatenate((head, ones, codes))


raw = np.stack((block(0.5, 0.25), block(0.0, 0.25)))
wanted = gguf.dequantize(raw, gguf.GGMLQuantizationType.Q4_K)
tensor = ExportableGGUFTensor.from_raw(torch.from_numpy(raw), "q4_k")
itself = tensor.dequantize(torch.float32).numpy()
integers = tensor.to_intx_unpacked_to_int8_tensor().dequantize().float().numpy()
for name, values in (("gguf", wanted), ("the tensor", itself), ("its integers", integers)):
    print(f"{name}: scale 0.5: {values[0, :4]}, scale 0: {sorted(set(values[1].tolist()))}")
as_described = (
    (itself == wanted).all()
    and (integers[0] == wanted[0]).all()
    and set(wanted[1].tolist()) == {-0.25}
    and set(integers[1].tolist()) == {0.0}
)
sys.exit(not as_described)
PY

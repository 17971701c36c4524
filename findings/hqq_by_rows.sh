#!/usr/bin/env bash
# torchao 0.18's hqq_scale_only quantizes a weight of 8192 x 2048 in several times the CPU time that it takes for the same
# rows 128 at a time, and to the same integers and scales: it passes over the whole matrix some hundred times, and 64 MB
# do not stay in a processor's cache, while 1 MB does. Its early end, when no scale moves by 1e-5, is that of all the rows
# that it is given, and changes nothing here. Source: _choose_qparams_and_quantize_scale_only_hqq in
# torchao/quantization/quant_primitives.py. Seen on one thread: 3.5 s and 0.4 s.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchao==0.18.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
import time
from importlib.metadata import version

import torch
from torchao.quantization import IntxUnpackedToInt8Tensor
from torchao.quantization.quantize_.workflows.intx.intx_choose_qparams_algorithm import IntxChooseQParamsAlgorithm

print({name: version(name) for name in ("torch", "torchao")})
torch.manual_seed(0)
weight = torch.randn(8192, 2048) * 0.02


def quantized(rows):
    algorithm = IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY
    return IntxUnpackedToInt8Tensor.from_hp(rows, (1, 32), torch.int4, intx_choose_qparams_algorithm=algorithm)


torch.set_num_threads(1)  # threads that wait for one another burn time too
quantized(weight[:128])  # what only the first call takes
started = time.process_time()
whole = quantized(weight)
middle = time.process_time()
parts = [quantized(rows) for rows in weight.split(128)]
seconds = (middle - started, time.process_time() - middle)
same = all(
    torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)) for name in ("qdata", "scale")
)
print(f"whole {seconds[0]:.2f} s, 128 rows at a time {seconds[1]:.2f} s; the same integers and scales: {same}")
sys.exit(not (same and seconds[0] > 2 * seconds[1]))
PY

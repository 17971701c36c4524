#!/usr/bin/env bash
# torchao's quantize_ takes every nn.Linear, subclasses too; transformers' Falcon multiplies by `weight.T` in a subclass
# of its own, and the quantized weight knows no transpose. So quantize_ succeeds, the summary of the model shows
# quantized linears, and the first call raises NotImplementedError; F.linear with the same weight works.
# Source: transformers/models/falcon/modeling_falcon.py (FalconLinear.forward), torchao's IntxUnpackedToInt8Tensor.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchao==0.18.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import torch
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
from torchao.quantization.granularity import PerGroup
from transformers import FalconConfig, FalconForCausalLM

print({name: version(name) for name in ("torch", "torchao", "transformers")})
config = FalconConfig(
    vocab_size=97, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, alibi=False, new_decoder_architecture=True
)
model = FalconForCausalLM(config).eval()
ids = torch.tensor([[1, 2, 3]])
print("in float:", tuple(model(ids).logits.shape))
quantize_(
    model, Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))
)
linear = model.transformer.h[0].self_attention.query_key_value
print("after quantize_:", type(linear).__name__, "with", type(linear.weight).__name__)
print("F.linear:", tuple(torch.nn.functional.linear(torch.randn(3, 64), linear.weight).shape))
try:
    model(ids)
except NotImplementedError as error:
    print("the model:", str(error).split(", types")[0])
    sys.exit("aten.permute" not in str(error) and "aten.t" not in str(error))
sys.exit(1)
PY

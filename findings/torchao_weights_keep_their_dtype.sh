#!/usr/bin/env bash
# transformers 5.23 with torchao 0.18: a model that torchao quantized in bfloat16 and from_pretrained is asked for in
# float32 has norms and embeddings of float32, and says that it is float32, but its quantized weights stay bfloat16: the
# first call raises about two dtypes, and .float() refuses with the words that the model has the right dtype already.
# Loaded in bfloat16 it answers. Source: transformers/quantizers/quantizer_torchao.py and modeling_utils.py.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchao==0.18.0 transformers==5.23.0 numpy
"$folder/venv/bin/python" -W ignore - "$folder" <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import torch
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup
from transformers import LlamaConfig, LlamaForCausalLM, TorchAoConfig

print({name: version(name) for name in ("torch", "torchao", "transformers")})
sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))
plain, quantized, bf16 = f"{sys.argv[1]}/plain", f"{sys.argv[1]}/quantized", torch.bfloat16
LlamaForCausalLM(LlamaConfig(**sizes)).to(bf16).save_pretrained(plain)
made = LlamaForCausalLM.from_pretrained(plain, dtype=bf16, quantization_config=TorchAoConfig(config))
made.save_pretrained(quantized)


def said(action):
    try:
        return str(action())
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


tokens, found = torch.tensor([[1, 2, 3]]), {}
for dtype in (bf16, torch.float32):
    model = LlamaForCausalLM.from_pretrained(quantized, dtype=dtype)
    dtypes = sorted({str(weight.dtype) for weight in model.parameters()})
    found[dtype] = (dtypes, str(model.dtype), said(lambda: model(tokens).logits.dtype), said(lambda: model.float().dtype))
    print(f"asked for {dtype}: parameters {dtypes}, model.dtype {model.dtype}")
    print(f"  a call: {found[dtype][2]}\n  .float(): {found[dtype][3]}")
asked = found[torch.float32]
as_described = (
    found[bf16][0] == ["torch.bfloat16"]
    and found[bf16][2] == "torch.bfloat16"
    and asked[0] == ["torch.bfloat16", "torch.float32"]
    and asked[1] == "torch.float32"
    and "same dtype" in asked[2]
    and "already been casted" in asked[3]
)
sys.exit(not as_described)
PY

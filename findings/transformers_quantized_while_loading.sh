#!/usr/bin/env bash
# transformers 5.23 compares the shapes of a checkpoint's tensors with the model's and refuses those that differ; not so
# where a weight is quantized while it loads: config.json says an intermediate size that the files have not, and with
# quantization_config=TorchAoConfig(...) from_pretrained gives a model, reports no mismatched key, and its linears say
# in_features and out_features that their weights have not. It even answers. Source: set_param_for_module in
# transformers/core_model_loading.py, which leaves parameters out that the quantizer claims.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchao==0.18.0 transformers==5.23.0 numpy
"$folder/venv/bin/python" -W ignore - "$folder" <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup
from transformers import LlamaConfig, LlamaForCausalLM, TorchAoConfig

print({name: version(name) for name in ("torch", "torchao", "transformers")})
place = f"{sys.argv[1]}/model"
sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(place)
config = Path(place, "config.json")
config.write_text(config.read_text().replace('"intermediate_size": 96', '"intermediate_size": 128'))

try:
    LlamaForCausalLM.from_pretrained(place)
    in_float = "a model"
except RuntimeError as error:
    in_float = f"RuntimeError: {str(error)[:60]}..."
print("in float:", in_float)
recipe = TorchAoConfig(Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32)))
model, info = LlamaForCausalLM.from_pretrained(place, quantization_config=recipe, output_loading_info=True)
down = model.model.layers[0].mlp.down_proj
logits = model(torch.tensor([[1, 2]])).logits
print("quantized: mismatched keys", info["mismatched_keys"], "in_features", down.in_features, "weight", [*down.weight.shape])
print("logits", [*logits.shape])
as_described = (
    in_float.startswith("RuntimeError")
    and not info["mismatched_keys"]
    and (down.in_features, down.weight.shape[1]) == (128, 96)
    and logits.shape == (1, 2, 40)
)
sys.exit(not as_described)
PY

#!/usr/bin/env bash
# transformers 5.23 reads a GGUF file's weights and drops what the file says of the rotation: Llama 3.1's and later factors
# (the tensor rope_freqs.weight), rope.scaling.* of all architectures but gpt-oss, and StarCoder2's rope.freq_base. The
# configuration has the unscaled rotation in their place, nothing warns, and the tensor is not among the unexpected keys;
# every position past the first is rotated otherwise than the model was trained. Gemma's 27B models lose their queries'
# scale likewise, for which GGUF has no key: llama.cpp knows it by the number of layers (46 and 62).
# Source: transformers/modeling_gguf_pytorch_utils.py, integrations/ggml.py. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 gguf==0.19.0
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys

import gguf
import numpy as np
import transformers
from transformers import AutoConfig


def read(name, architecture, *, layers=2, factors=None, base=None, scaling=None):
    writer = gguf.GGUFWriter(f"{name}.gguf", architecture)
    writer.add_block_count(layers)
    writer.add_context_length(131072)
    writer.add_embedding_length(512)
    writer.add_feed_forward_length(1024)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(128)
    writer.add_key_length(128)
    writer.add_value_length(128)
    if base is not None:
        writer.add_rope_freq_base(base)
    if scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling[0]))
        writer.add_rope_scaling_factor(scaling[1])
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(512, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = AutoConfig.from_pretrained(".", gguf_file=f"{name}.gguf")
    print(f"{name}: rope_parameters {config.rope_parameters}, query_pre_attn_scalar {getattr(config, 'query_pre_attn_scalar', None)}")
    return config


print("transformers", transformers.__version__)
llama = read("llama-with-factors", "llama", base=500000.0, factors=[1.0] * 40 + [32.0] * 24)
qwen = read("qwen2-yarn", "qwen2", base=1e6, scaling=("yarn", 4.0))
star = read("starcoder2-base-1e6", "starcoder2", base=1e6)
gemma = read("gemma2-of-46-layers", "gemma2", layers=46, base=1e4)
sys.exit(not (
    llama.rope_parameters == {"rope_type": "default", "rope_theta": 500000.0}
    and qwen.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    and star.rope_parameters["rope_theta"] == 1e4
    and gemma.query_pre_attn_scalar == 256
))
PY

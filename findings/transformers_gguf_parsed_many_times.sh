#!/usr/bin/env bash
# transformers 5.23 with gguf 0.19: AutoModelForCausalLM.from_pretrained(..., gguf_file=...) parses the whole file, its
# vocabulary included, once for the configuration and once more for the weights, AutoTokenizer a third time; and the table
# of an architecture's tensor names, which is the same for all, is made anew for each module of the model. Of a file of
# 135 million parameters and 49,152 tokens that is 13 of the 22 seconds of its loading.
# Source: load_gguf_checkpoint and get_gguf_hf_weights_map in transformers/modeling_gguf_pytorch_utils.py.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0 gguf==0.19.0 torch==2.13.0 accelerate==1.15.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import gguf
import numpy as np
from transformers import AutoConfig, AutoModelForCausalLM

print({name: version(name) for name in ("transformers", "gguf")})
LAYERS, WIDTH, VOCABULARY = 3, 32, 16
writer = gguf.GGUFWriter("model.gguf", "llama")
writer.add_block_count(LAYERS)
writer.add_context_length(64)
writer.add_embedding_length(WIDTH)
writer.add_feed_forward_length(WIDTH)
writer.add_head_count(2)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(VOCABULARY)
writer.add_tokenizer_model("gpt2")
writer.add_token_list([f"t{i}" for i in range(VOCABULARY)])
shapes = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
for layer in range(LAYERS):
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes |= {f"blk.{layer}.{name}": (WIDTH, WIDTH) for name in square}
    shapes |= {f"blk.{layer}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

parsed, tables = [], []
reader, table = gguf.GGUFReader, gguf.get_tensor_name_map


class Counted(reader):
    def __init__(self, *args):
        parsed.append(args)
        super().__init__(*args)


def counted(*args):
    tables.append(args)
    return table(*args)


gguf.GGUFReader, gguf.get_tensor_name_map = Counted, counted
model = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf")
modules = len(list(model.modules()))
print(f"from_pretrained: file parsed {len(parsed)} times; tables of names made {len(tables)}, all the same: "
      f"{len(set(map(str, tables))) == 1}; modules {modules}")
first = len(parsed)
AutoConfig.from_pretrained(".", gguf_file="model.gguf")
print(f"AutoConfig alone: {len(parsed) - first} times")
sys.exit((first, len(parsed) - first, len(tables), len(set(map(str, tables)))) != (2, 1, modules, 1))
PY

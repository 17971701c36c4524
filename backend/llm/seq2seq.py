"""Encoders with a decoder (T5, BART, Whisper, ...) as two methods of one .pte.

`encode(source) -> f32 [1, S, hidden]` reads what the answer is about and puts keys and values for the decoder's
cross-attention into caches; `forward(input_ids [1, T], cache_position [T]) -> logits [1, 1, vocabulary]` is a decoder's
own (export.py), over these caches. source: input_ids [1, S] i64 of a text of 1 to max_source tokens, or input_features
f32 [1, mels, frames] of speech, which always fill the encoder.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import Cache, EncoderDecoderCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from ..errors import OptionError
from .files import ENCODE
from .sampling import largest

_SPEECH = ("whisper",)  # model types whose features always fill the encoder


def is_seq2seq(config: PreTrainedConfig) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def reads_speech(config: PreTrainedConfig) -> bool:
    return config.model_type in _SPEECH


def source_positions(config: PreTrainedConfig, max_source: int) -> int:
    """Of the caches: what the encoder makes of a text of max_source tokens, or of any speech."""
    return int(config.max_source_positions) if reads_speech(config) else max_source


def check_seq2seq(config: PreTrainedConfig, place: str) -> None:
    """Raises OptionError on an encoder with a decoder that is exported in no way here."""
    if not reads_speech(config) and type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        names = ", ".join(config.architectures or [type(config).__name__])
        raise OptionError(
            f"export: {place}: {names} is an encoder with a decoder that reads no text; offered those that do, and "
            "Whisper"
        )


def start_tokens(model: PreTrainedModel) -> list[int]:
    """What the decoder begins with: its start token, and the one that the generation's configuration forces after it.

    Raises OptionError where neither configuration has a start token.
    """
    generation = model.generation_config
    first = getattr(generation, "decoder_start_token_id", None)
    first = getattr(model.config, "decoder_start_token_id", None) if first is None else first
    if first is None:
        raise OptionError("export: the model names no first token of an answer; write decoder_start_token_id into "
                          "its generation_config.json")  # fmt: skip
    forced = getattr(generation, "forced_bos_token_id", None)
    return [int(first)] if forced is None else [int(first), int(forced)]


def export_seq2seq(
    model: PreTrainedModel, *, max_source: int, max_context: int, max_prefill: int, top_logits: int | None = None
) -> dict[str, ExportedProgram]:
    """torch.export of both methods, which share the caches; see the module for their inputs and outputs."""
    sizes: tuple[dict[int, Dim], ...] | None = None
    if reads_speech(model.config):
        frames = 2 * model.config.max_source_positions  # the encoder's second convolution takes every other one
        source = torch.zeros(1, model.config.num_mel_bins, frames)
    else:
        source = torch.zeros(1, 3, dtype=torch.long)
        sizes = ({1: Dim("source", min=1, max=max_source)},)
    with torch.no_grad():
        positions = source_positions(model.config, max_source)
        states = _States(model, source, max_source=positions, max_context=max_context)
        encoder, decoder = SourceEncoder(model, states), TargetDecoder(model, states, top_logits)
        length = Dim("length", min=1, max=max_prefill)
        tokens = (torch.zeros(1, 3, dtype=torch.long), torch.arange(3))
        return {
            ENCODE: torch.export.export(encoder.train(False), (source,), dynamic_shapes=sizes, strict=True),
            "forward": torch.export.export(
                decoder.train(False), tokens, dynamic_shapes=({1: length}, {0: length}), strict=True
            ),
        }


class _States:
    """Caches of zeros for the decoder's attentions, of the sizes that a call of the model has shown."""

    def __init__(self, model: PreTrainedModel, source: torch.Tensor, *, max_source: int, max_context: int) -> None:
        seen = _seen_caches()
        _read_source(model, source, seen)
        self.own = _zeros(seen.self_attention_cache, max_context)
        self.source = _zeros(seen.cross_attention_cache, max_source)
        self.length = torch.zeros(1, dtype=torch.long)  # of the source

    def of_source(self) -> dict[str, torch.Tensor]:
        found = {"source_length": self.length}
        for index, layer in enumerate(self.source.layers):
            found |= {f"source_keys_{index}": layer.keys, f"source_values_{index}": layer.values}
        return found

    def of_target(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for index, layer in enumerate(self.own.layers):
            found |= {f"key_cache_{index}": layer.keys, f"value_cache_{index}": layer.values}
            found[f"cumulative_length_{index}"] = layer.cumulative_length
        return found


class SourceEncoder(nn.Module):
    """The method `encode`."""

    def __init__(self, model: PreTrainedModel, states: _States) -> None:
        super().__init__()
        self.model = model
        _register(self, states.of_source())

    def forward(self, source: torch.Tensor) -> torch.Tensor:
        seen = _seen_caches()
        hidden = _read_source(self.model, source, seen)
        places = torch.arange(hidden.shape[1])
        layers: list[Any] = seen.cross_attention_cache.layers
        for index, layer in enumerate(layers):
            self.get_buffer(f"source_keys_{index}").index_copy_(2, places, layer.keys)
            self.get_buffer(f"source_values_{index}").index_copy_(2, places, layer.values)
        self.get_buffer("source_length").copy_(places[-1:] + 1)
        return hidden


class TargetDecoder(nn.Module):
    """The method `forward`."""

    def __init__(self, model: PreTrainedModel, states: _States, top_logits: int | None) -> None:
        super().__init__()
        self.model, self.own, self.top_logits = model, states.own, top_logits
        self.caches = EncoderDecoderCache(states.own, states.source)
        self.caches.is_updated = {index: True for index in range(len(states.source.layers))}
        self.max_source = states.source.layers[0].keys.shape[2]
        _register(self, states.of_source() | states.of_target())

    def forward(
        self, input_ids: torch.Tensor, cache_position: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        for layer in self.own.layers:
            layer.cumulative_length.copy_(cache_position[:1].view_as(layer.cumulative_length))
        # Only its length is read: keys and values are in the caches.
        hidden = torch.zeros(1, self.max_source, self.model.config.hidden_size)
        options: dict[str, Any] = {}
        if not reads_speech(self.model.config):
            options["attention_mask"] = torch.arange(self.max_source)[None] < self.get_buffer("source_length")
        output = self.model(
            decoder_input_ids=input_ids,
            encoder_outputs=(hidden,),
            use_cache=True,
            **{_cache_name(self.model): self.caches},
            **options,
        )
        return largest(output.logits[:, -1:], self.top_logits)


class _SeenLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keeps the keys and values of one call. transformers' own begins with an empty tensor, which would stay in the
    program as a constant, and ExecuTorch 1.5 loads no program whose constants are all empty.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **options: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states


def _seen_caches() -> EncoderDecoderCache:
    return EncoderDecoderCache(*(Cache(layer_class_to_replicate=_SeenLayer) for _ in range(2)))


def _read_source(model: PreTrainedModel, source: torch.Tensor, caches: EncoderDecoderCache) -> torch.Tensor:
    """The encoder's result; a token of the decoder, whichever, leaves keys and values of it in the caches."""
    hidden: torch.Tensor = model.get_encoder()(source).last_hidden_state
    token = torch.zeros(1, 1, dtype=torch.long)
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    decoder(input_ids=token, encoder_hidden_states=hidden, use_cache=True, **{_cache_name(decoder): caches})
    return hidden


def _cache_name(model: nn.Module) -> str:
    """What transformers calls the caches: since 5.24 by another name."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _zeros(seen: Any, length: int) -> Any:
    """A static Cache whose layers are as those of the one seen."""
    layers: list[Any] = [StaticLayer(length) for _ in seen.layers]
    for layer, like in zip(layers, seen.layers, strict=True):
        layer.lazy_initialization(like.keys, like.values)
    return Cache(layers=layers)


def _register(module: nn.Module, states: Mapping[str, torch.Tensor]) -> None:
    for name, value in states.items():
        module.register_buffer(name, value, persistent=False)

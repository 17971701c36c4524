"""Tiny transformers with random weights, one of each architecture that the README lists, and how each is exported."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import transformers
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import DynamicCache, PreTrainedModel
from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

import zeropoint
from tests.unit.rules.models import MAX_CONTEXT, MAX_PREFILL, SIZES, VOCABULARY
from zeropoint.llm.export import export_decoder

EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "batched_mm"}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
ENCODER = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "intermediate_size")} | {
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
BOTH_HALVES = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@dataclass(frozen=True)
class Decoder:
    """A causal language model, exported with a static cache. name: of its classes in transformers."""

    name: str
    options: dict[str, object] = field(default_factory=dict)
    config: str = ""
    is_quantized: bool = True

    def model(self) -> PreTrainedModel:
        sizes = {**SIZES, **self.options}
        config = getattr(transformers, f"{self.config or self.name}Config")(**sizes)
        return prepared(getattr(transformers, f"{self.name}ForCausalLM")(config), quantized=self.is_quantized)


DECODERS = {
    "Llama": Decoder("Llama"),
    "Qwen2": Decoder("Qwen2"),
    "Qwen3": Decoder("Qwen3", {"head_dim": 16}),
    "Mistral": Decoder("Mistral", {"sliding_window": 8}),
    "Gemma 2": Decoder(
        "Gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "attn_implementation": "eager", **WINDOWS}
    ),
    "Gemma 3": Decoder("Gemma3", {"head_dim": 32, "query_pre_attn_scalar": 32, **WINDOWS}, "Gemma3Text"),
    "Phi-3": Decoder("Phi3"),
    "SmolLM3": Decoder("SmolLM3", {"no_rope_layer_interval": 2}),
    "OLMo 2": Decoder("Olmo2"),
    "Granite": Decoder("Granite", {"attention_multiplier": 0.3, "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "StableLM": Decoder("StableLm"),
    "StarCoder2": Decoder("Starcoder2", {"sliding_window": 8}),
    "GLM-4": Decoder("Glm4", {"head_dim": 16}),
    "Helium": Decoder("Helium", {"head_dim": 16}),
    "GPT-NeoX": Decoder("GPTNeoX", {"num_key_value_heads": 4}),
    # Its linears multiply by weight.T, which torchao's quantized weights do not know, in eager PyTorch either.
    "Falcon": Decoder(
        "Falcon",
        {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2, "num_key_value_heads": 4},
        is_quantized=False,
    ),
    "Cohere": Decoder("Cohere"),
    "Mixtral": Decoder("Mixtral", {"num_hidden_layers": 1, "num_local_experts": 4, **EXPERTS}),
    "Qwen3-MoE": Decoder("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16, **EXPERTS}),
}


class Whole(nn.Module):
    """One output of a model, whose inputs are given by name."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], output: str) -> None:
        super().__init__()
        self.model, self.names, self.output = model, names, output

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = getattr(self.model(**dict(zip(self.names, inputs, strict=True))), self.output)
        return result


def ids(length: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (batch, length))


def bert() -> tuple[nn.Module, tuple[torch.Tensor, ...], object]:
    """Two texts, one padded, of any length. Without the pooler: what no output reads is not computed."""
    model = prepared(transformers.BertModel(transformers.BertConfig(**ENCODER), add_pooling_layer=False))
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    length = Dim("length", max=32)
    names = ("input_ids", "attention_mask")
    return Whole(model, names, "last_hidden_state"), (ids(7, 2), mask), (({1: length}, {1: length}),)


def vit() -> tuple[nn.Module, tuple[torch.Tensor, ...], object]:
    sizes = {name: ENCODER[name] for name in ENCODER if name != "vocab_size"}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=10)
    model = prepared(transformers.ViTForImageClassification(config))
    return Whole(model, ("pixel_values",), "logits"), (torch.randn(2, 3, 16, 16),), None


def t5() -> tuple[nn.Module, tuple[torch.Tensor, ...], object]:
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=1,
        num_heads=4,
        pad_token_id=0,
        decoder_start_token_id=0,
        use_cache=False,
    )
    model = prepared(transformers.T5ForConditionalGeneration(config))
    return Whole(model, ("input_ids", "decoder_input_ids"), "logits"), (ids(9), ids(4)), None


def whisper() -> tuple[nn.Module, tuple[torch.Tensor, ...], object]:
    """Without a mask: transformers look for packed texts by aten.cumsum."""
    config = transformers.WhisperConfig(
        **BOTH_HALVES, num_mel_bins=8, max_source_positions=12, max_target_positions=16, use_cache=False
    )
    model = prepared(transformers.WhisperForConditionalGeneration(config))
    names = ("input_features", "decoder_input_ids")
    return Whole(model, names, "logits"), (torch.randn(1, 8, 24), ids(4)), None


def bart() -> tuple[nn.Module, tuple[torch.Tensor, ...], object]:
    config = transformers.BartConfig(**BOTH_HALVES, max_position_embeddings=32, use_cache=False)
    model = prepared(transformers.BartForConditionalGeneration(config))
    return Whole(model, ("input_ids", "decoder_input_ids"), "logits"), (ids(9), ids(4)), None


def llama_without_cache() -> tuple[nn.Module, tuple[torch.Tensor, ...], object]:
    """Logits of every position of two texts of any length."""
    model = Decoder("Llama", {"num_hidden_layers": 1}).model()
    model.config.use_cache = False
    return Whole(model, ("input_ids",), "logits"), (ids(7, 2),), (({1: Dim("length", max=32)},),)


OTHERS: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...], object]]] = {
    "BERT": bert,
    "ViT": vit,
    "T5": t5,
    "Whisper": whisper,
    "BART": bart,
    "Llama without a cache": llama_without_cache,
}


def prepared(model: PreTrainedModel, *, quantized: bool = True) -> PreTrainedModel:
    """8da4w, in the mode of inference, with norms that are not all ones or zeros."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    model.eval().requires_grad_(False)
    return zeropoint.quantize(model) if quantized else model


def exported_with_cache(model: PreTrainedModel, *, tokens: int) -> ExportedProgram:
    """input_ids [1, tokens], cache_position [tokens] -> logits [1, tokens, vocabulary]; as transformers export it."""
    model.generation_config.cache_implementation = "static"
    model.generation_config.use_cache = True
    decoder = TorchExportableModuleForDecoderOnlyLM(model, batch_size=1, max_cache_len=MAX_CONTEXT)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        program: ExportedProgram = decoder.export(
            input_ids=ids(tokens), cache_position=torch.arange(tokens), dynamic_shapes=None, strict=True
        )
    return program


def exported_of_any_length(model: PreTrainedModel) -> ExportedProgram:
    """input_ids [1, S], cache_position [S] -> logits [1, 1, vocabulary] of the last position."""
    with warnings.catch_warnings(action="ignore"):
        return export_decoder(model, max_context=MAX_CONTEXT, max_prefill=MAX_PREFILL)


def eager_calls(
    model: PreTrainedModel, tokens: torch.Tensor, lengths: list[int], *, logits_to_keep: int = 0
) -> list[Callable[[], torch.Tensor]]:
    """The logits of each part of the tokens in turn, with a cache of eager PyTorch. logits_to_keep: 0 keeps all."""
    options = {
        "past_key_values": DynamicCache(config=model.config),
        "use_cache": True,
        "logits_to_keep": logits_to_keep,
    }
    first, calls = 0, []
    for length in lengths:
        part = tokens[:, first : first + length]
        calls.append(lambda part=part: model(part, **options).logits)
        first += length
    return calls

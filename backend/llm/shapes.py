"""Published shapes of models whose trained weights no Python package has.

A test compares the numbers of parameters with the published ones; constants of norms and rotations have no such check.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    ViTConfig,
)

from .checkpoints import keep_layers

_GEMMA_PATTERN = 6  # every sixth layer sees all keys
_PHI_LONG_FACTORS = 48  # half of the rotated part of a head


def qwen3_600m() -> PreTrainedConfig:
    """Qwen/Qwen3-0.6B."""
    return Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=151643,
        eos_token_id=151645,
    )


def llama_1b() -> PreTrainedConfig:
    """meta-llama/Llama-3.2-1B."""
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        tie_word_embeddings=True,
        bos_token_id=128000,
        eos_token_id=128001,
    )


def phi4_mini() -> PreTrainedConfig:
    """microsoft/Phi-4-mini-instruct, but for the rotation's factors of contexts beyond 4,096, which are made up."""
    return Phi3Config(
        vocab_size=200064,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=32,
        num_attention_heads=24,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 4096,
            "short_factor": [1.0] * _PHI_LONG_FACTORS,
            "long_factor": [1.0 + index for index in range(_PHI_LONG_FACTORS)],
        },
        sliding_window=262144,
        tie_word_embeddings=True,
        bos_token_id=199999,
        eos_token_id=199999,
        pad_token_id=199999,
    )


def gemma3_270m() -> PreTrainedConfig:
    """google/gemma-3-270m: five layers with a window of 512 keys to one without."""
    n_layers = 18
    kinds = ["full_attention" if (i + 1) % _GEMMA_PATTERN == 0 else "sliding_attention" for i in range(n_layers)]
    return Gemma3TextConfig(
        vocab_size=262144,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        max_position_embeddings=32768,
        sliding_window=512,
        layer_types=kinds,
        query_pre_attn_scalar=256,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        },
        tie_word_embeddings=True,
    )


def speech_backbone() -> PreTrainedConfig:
    """Llama 3.2 1B's body as text-to-speech models use it: it reads embeddings and gives one of 2,051 audio codes."""
    config = llama_1b()
    config.vocab_size, config.tie_word_embeddings = 2051, False
    config.bos_token_id = config.eos_token_id = 0
    return config


def vit_b16() -> PreTrainedConfig:
    """google/vit-base-patch16-224, with the 1,000 classes of ImageNet."""
    config = ViTConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=224,
        patch_size=16,
        layer_norm_eps=1e-12,
    )
    config.num_labels = 1000
    return config


def random_weights(
    build: Callable[[PreTrainedConfig], PreTrainedModel], config: PreTrainedConfig, n_layers: int | None
) -> PreTrainedModel:
    """The same weights every time; those of norms are shaken, because ones and zeros hide mistakes."""
    if n_layers is not None:
        keep_layers(config, n_layers)
    torch.manual_seed(0)
    loaded = build(config)
    with torch.no_grad():
        for parameter in loaded.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return loaded

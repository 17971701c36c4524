"""What a GGUF file says of its model and transformers' loader leaves out: rotations, attention scales, soft caps.

With transformers' defaults in their place the same weights are another function, and nothing warns: Llama 3's factors
of the rotation lie in a tensor, a scaled rotation or StarCoder2's base in keys, Gemma 27B's scale in llama.cpp's code.
The keys are those of the gguf package, their meaning that of llama.cpp, which wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedConfig

from ..errors import OptionError

_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}  # layers of those whose queries are scaled by the width of all heads
_LLAMA3: dict[str, float] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_YARN = {"original_context_length": "original_max_position_embeddings", "yarn_beta_fast": "beta_fast",
         "yarn_beta_slow": "beta_slow"}  # fmt: skip
_FREQUENCIES = "rope_freqs.weight"
_LONG_FREQUENCIES = "rope_factors_long.weight"
_CLOSE = 1e-4  # relative, of factors that were written in float32


def complete_config(config: PreTrainedConfig, reader: gguf.GGUFReader, place: str) -> None:
    """Corrects what transformers made of a file. Raises OptionError on a rotation that cannot be said to it."""
    architecture = reader.fields["general.architecture"].contents()
    prefix = f"{architecture}."
    given = {name.removeprefix(prefix): field for name, field in reader.fields.items() if name.startswith(prefix)}
    settings = {name: field.contents() for name, field in given.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict):
        wide = rope.get("full_attention", rope)
        _set_width(config, wide, settings, place)
        if "rope.freq_base" in settings:
            wide["rope_theta"] = settings["rope.freq_base"]
        if "rope.freq_base_swa" in settings and "sliding_attention" in rope:
            rope["sliding_attention"]["rope_theta"] = settings["rope.freq_base_swa"]
        _set_scaling(wide, settings, place)
        if _LONG_FREQUENCIES in tensors:
            raise OptionError(
                f"export: {place}: {_LONG_FREQUENCIES}: a rotation that depends on the length of the text; export the "
                "folder that the file was made of"
            )
        if _FREQUENCIES in tensors:
            _set_llama3(wide, np.asarray(tensors[_FREQUENCIES].data, np.float64), place)
    if architecture in _LARGEST_GEMMA:
        is_largest = settings["block_count"] == _LARGEST_GEMMA[architecture]
        config.query_pre_attn_scalar = (
            config.hidden_size // config.num_attention_heads if is_largest else config.head_dim
        )
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if name in settings:
                setattr(config, name, settings[name])


def _head_dim(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _set_width(config: PreTrainedConfig, rope: dict[str, Any], settings: Mapping[str, Any], place: str) -> None:
    """Which part of a head is rotated."""
    width, head = settings.get("rope.dimension_count"), _head_dim(config)
    if width is None or (width == head and "partial_rotary_factor" not in rope):
        return
    if "partial_rotary_factor" not in rope:
        raise OptionError(f"export: {place}: rope.dimension_count {width}; transformers' model rotates all {head}")
    rope["partial_rotary_factor"] = width / head


def _set_scaling(rope: dict[str, Any], settings: Mapping[str, Any], place: str) -> None:
    kind = settings.get("rope.scaling.type", "none")
    factor = float(settings.get("rope.scaling.factor", 1.0))
    scaling = {name.removeprefix("rope.scaling."): value for name, value in settings.items()}
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return
    if kind not in ("linear", "yarn") or "attn_factor" in scaling or "yarn_attn_factor" in scaling:
        raise OptionError(
            f"export: {place}: rope.scaling.type {kind!r} with {', '.join(sorted(scaling.keys() & _scaling_keys()))}; "
            "offered none, linear, and yarn with its own factor of the attention; export the folder that it was made of"
        )
    rope |= {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        rope |= {theirs: scaling[ours] for ours, theirs in _YARN.items() if ours in scaling}


def _scaling_keys() -> set[str]:
    names = (value for name, value in vars(gguf.Keys.Rope).items() if name.startswith("SCALING_"))
    return {str(name).rpartition("rope.scaling.")[2] for name in names}


def _set_llama3(rope: dict[str, Any], found: np.ndarray, place: str) -> None:
    """found: by how much each frequency is divided."""
    if np.all(found == 1.0):
        return
    factor = float(found.max())
    if not np.allclose(found, llama3_factors(rope["rope_theta"], 2 * len(found), factor), rtol=_CLOSE):
        raise OptionError(
            f"export: {place}: {_FREQUENCIES}: factors of the rotation that are not Llama 3's; export the folder that "
            "the file was made of"
        )
    rope |= {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def llama3_factors(theta: float, width: int, factor: float) -> np.ndarray:
    """By how much Llama 3.1 divides each of the frequencies of a head of this width, [width / 2]."""
    context, low, high = (
        _LLAMA3[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    turns = context / (2 * math.pi * theta ** (np.arange(0, width, 2) / width))  # in the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))

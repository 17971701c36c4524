"""rotary_update_cache and then attention over the caches it wrote, in f64 but for what lies in tensors between them."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, OutputSpec, Result, Tensors
from .attention import reference as attention
from .attention_math import attention_bound, largest_score
from .bounds import stored_bound
from .rotary_update_cache import reference as rotary_update_cache
from .rotary_update_cache import tolerance as rotary_tolerance


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """The slots of both kernels, k_cache and v_cache as they were before -> k_cache, v_cache, y."""
    rotated = rotated_heads(inputs, attrs)
    y = attention(attention_slots(inputs, rotated), attention_attrs(attrs), outputs)
    return {"k_cache": rotated["k_cache"], "v_cache": rotated["v_cache"], **y}


def rotated_heads(inputs: Tensors, attrs: Attrs) -> dict[str, torch.Tensor]:
    """The outputs of rotary_update_cache; of them q_out, [B, H, S, D], is no slot here."""
    return rotary_update_cache(inputs, rotation_attrs(attrs), {"q_out": rotated_queries(inputs, attrs)})


def rotated_queries(inputs: Tensors, attrs: Attrs) -> OutputSpec:
    """What holds q_out."""
    q, heads, head_dim = inputs["q"], int(attrs["heads"]), int(attrs["head_dim"])
    return OutputSpec((q.shape[0], heads, q.shape[1 if attrs["q_layout"] else 2], head_dim), q.dtype)


def rotation_attrs(attrs: Attrs) -> dict[str, int | float]:
    """The attributes of rotary_update_cache."""
    return {**attrs, "out_layout": 0}


def attention_slots(inputs: Tensors, rotated: Tensors) -> dict[str, torch.Tensor]:
    """What attention reads of what rotary_update_cache makes: as tensors of the slots' dtype hold it."""
    found = {"q": rotated["q_out"], "k": rotated["k_cache"], "v": rotated["v_cache"]}
    slots = {slot: value.to(inputs["q"].dtype) for slot, value in found.items()}
    return {**slots, "mask": inputs["mask"], "position": inputs["position"]}


def attention_attrs(attrs: Attrs) -> dict[str, int | float]:
    """The attributes of attention over the caches."""
    return {**attrs, "q_layout": 0, "kv_layout": attrs["cache_layout"], "q_first": 0, "k_first": 0, "v_first": 0}


def tolerance(result: Result) -> torch.Tensor:
    """The caches as rotary_update_cache's; y as attention's, with queries and keys that are off."""
    if result.slot != "y":
        return rotary_tolerance(result)
    rotated = rotated_heads(result.inputs, result.attrs)
    q_out = rotated_queries(result.inputs, result.attrs)
    slots = {**result.inputs, "q_out": torch.empty(q_out.shape, dtype=q_out.dtype)}
    inputs = {**attention_slots(result.inputs, rotated), "y": result.inputs["y"]}
    # Masked keys may count here: a mask is added to scores, and these are no scores but what they are off by.
    attrs = {**attention_attrs(result.attrs), "masked": 0}
    off = 0.0
    for slot, of_attention in (("q_out", "q"), ("k_cache", "k")):
        part = Result("rotary_update_cache", slot, slots, rotation_attrs(result.attrs), rotated[slot])
        error = rotary_tolerance(part) + stored_bound(rotated[slot], q_out.dtype)
        off += largest_score(Result("attention", "y", inputs, attrs, result.wanted), **{of_attention: error})
    return attention_bound(Result("attention", "y", inputs, attention_attrs(result.attrs), result.wanted), off=off)

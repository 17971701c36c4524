"""rotary_update_cache and then attention over the caches it wrote, in f64 but for what lies in tensors between them."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, OutputSpec, Tensors
from .attention import reference as attention
from .rotary_update_cache import reference as rotary_update_cache


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

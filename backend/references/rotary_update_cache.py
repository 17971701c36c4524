"""Head norm and rotary embedding of q and k, and the writing of k and v into their caches, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import FUNCTION_UNITS, in_units, sum_units
from .heads import join_heads, split_heads, token_positions, write_cache
from .rotary_embedding import ROTARY_UNITS, rotate, turned_sizes


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """q, k, v, q_norm, k_norm, cos_table, sin_table, position, k_cache, v_cache -> q_out, k_cache, v_cache.

    The two caches among the inputs are what they held before.
    """
    q, k, v = (_heads(inputs, attrs, slot) for slot in ("q", "k", "v"))
    if attrs["normed"]:
        q, k = (_normed(x, inputs[f"{slot}_norm"], float(attrs["eps"])) for slot, x in (("q", q), ("k", k)))
    positions = token_positions(inputs["position"], attrs, batch=q.shape[0], tokens=q.shape[2])
    layout = int(attrs["cache_layout"])
    q_out = join_heads(rotate(q, inputs, attrs), outputs["q_out"].shape, layout=int(attrs["out_layout"]))
    return {
        "q_out": q_out,
        "k_cache": write_cache(inputs["k_cache"], rotate(k, inputs, attrs), positions, layout=layout),
        "v_cache": write_cache(inputs["v_cache"], v, positions, layout=layout),
    }


def _heads(inputs: Tensors, attrs: Attrs, slot: str) -> torch.Tensor:
    return split_heads(
        inputs[slot],
        layout=int(attrs["q_layout" if slot == "q" else "kv_layout"]),
        heads=int(attrs["heads" if slot == "q" else "kv_heads"]),
        head_dim=int(attrs["head_dim"]),
        first=int(attrs[f"{slot}_first"]),
    )


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.double()


def tolerance(result: Result) -> torch.Tensor:
    """q and k are turned, v is copied."""
    if result.slot == "v_cache":
        return torch.zeros(())
    normed = FUNCTION_UNITS + sum_units(int(result.attrs["head_dim"])) if result.attrs["normed"] else 0.0
    return in_units(ROTARY_UNITS + normed, turned_sizes(result))

"""Bounds of attention, rotary embedding and caches."""

from __future__ import annotations

import torch

from ..references.attention_math import attention_heads
from ..references.rotary_attention import (
    attention_attrs,
    attention_slots,
    rotated_heads,
    rotated_queries,
    rotation_attrs,
)
from .units import FUNCTION_UNITS, UNIT, Result, in_units, stored_bound, sum_units

ROTARY_UNITS = 6.0
HIDDEN = -1e38  # below this the largest score of a split says that it saw no key
TIE = 1e-4  # how near a tie, in codes, a rounding may fall either way


def attention(result: Result, *, off: float = 0.0) -> torch.Tensor:
    """attention, and the partial sums of attention_decode_partial. off: what a score is off by beside its rounding."""
    length = result.inputs["k"].shape[1 if result.attrs["kv_layout"] else 2]
    units = FUNCTION_UNITS + sum_units(length) + 2 * (_score_units(result) + off / UNIT)
    return in_units(units, result.again(result.sizes("v")))


def statistics(result: Result) -> torch.Tensor:
    """attention_decode_partial: its partial sums, or of every split the largest score and the sum of exponentials."""
    if result.slot == "partial":
        return attention(result)
    largest, total = result.wanted.double().unbind(-1)
    units = _score_units(result)
    bound = UNIT * units + 4 * UNIT * largest.abs() + torch.where(largest < HIDDEN, 0.1 * largest.abs(), 0.0)
    length = result.inputs["k"].shape[1 if result.attrs["kv_layout"] else 2]
    return torch.stack([bound, in_units(FUNCTION_UNITS + sum_units(length) + 2 * units, total)], -1)


def split_reduction(result: Result) -> torch.Tensor:
    """attention_decode_reduce."""
    largest = result.inputs["stats"][..., 0].double().nan_to_num(0.0)
    span = float(torch.where(largest < HIDDEN, 0.0, largest.abs()).max()) if largest.numel() else 0.0
    units = FUNCTION_UNITS + sum_units(result.inputs["partial"].shape[2]) + 2 * span
    return in_units(units, result.again(result.sizes("partial")))


def rotary(result: Result) -> torch.Tensor:
    """rotary_embedding."""
    return in_units(ROTARY_UNITS, _turned_sizes(result))


def rotary_cache(result: Result) -> torch.Tensor:
    """rotary_update_cache: q and k are turned, v is copied."""
    if result.slot == "v_cache":
        return torch.zeros(())
    normed = FUNCTION_UNITS + sum_units(int(result.attrs["head_dim"])) if result.attrs["normed"] else 0.0
    return in_units(ROTARY_UNITS + normed, _turned_sizes(result))


def rotary_attention(result: Result) -> torch.Tensor:
    """rotary_attention: the caches as rotary_update_cache's; y as attention's, with queries and keys that are off."""
    if result.slot != "y":
        return rotary_cache(result)
    rotated = rotated_heads(result.inputs, result.attrs)
    q_out = rotated_queries(result.inputs, result.attrs)
    slots = {**result.inputs, "q_out": torch.empty(q_out.shape, dtype=q_out.dtype)}
    inputs = {**attention_slots(result.inputs, rotated), "y": result.inputs["y"]}
    # Masked keys may count here: a mask is added to scores, and these are no scores but what they are off by.
    attrs = {**attention_attrs(result.attrs), "masked": 0}
    off = 0.0
    for slot, of_attention in (("q_out", "q"), ("k_cache", "k")):
        part = Result("rotary_update_cache", slot, slots, rotation_attrs(result.attrs), rotated[slot])
        error = rotary_cache(part) + stored_bound(rotated[slot], q_out.dtype)
        off += _largest_score(Result("attention", "y", inputs, attrs, result.wanted), **{of_attention: error})
    return attention(Result("attention", "y", inputs, attention_attrs(result.attrs), result.wanted), off=off)


def quantized_cache(result: Result) -> torch.Tensor:
    """update_cache_q8: scales are rounded twice, codes are next to each other where the number is near a tie."""
    if result.slot == "cache_scale":
        return in_units(4.0, result.wanted.abs())
    empty = {"cache": torch.zeros(result.wanted.shape, dtype=torch.float64)}
    x = result.again(empty, kernel="update_cache")
    exact = x / result.again({}, slot="cache_scale").unsqueeze(-1)
    return ((exact - exact.floor() - 0.5).abs() < TIE).double()


def _score_units(result: Result) -> float:
    """Units of 1 by which a score is off: the rounding of the largest one's terms, and of its soft cap."""
    terms = sum_units(int(result.attrs["head_dim"])) * _largest_score(result)
    return terms + 8 * max(float(result.attrs["soft_cap"]), 0.0)


def _largest_score(result: Result, **changed: torch.Tensor) -> float:
    """The largest sum of the sizes of a seen key's products, before any soft cap."""
    sizes = {**result.inputs, **result.sizes("q", "k"), **changed}
    scores = attention_heads(sizes, {**result.attrs, "soft_cap": 0.0}).scores
    seen = scores[torch.isfinite(scores)].abs()
    return float(seen.max()) if seen.numel() else 0.0


def _turned_sizes(result: Result) -> torch.Tensor:
    """|x cos| + |x' sin|."""
    sizes = result.sizes("x", "q", "k", "q_norm", "k_norm", "cos_table", "sin_table")
    by_cos = result.again({**sizes, "sin_table": torch.zeros_like(result.inputs["sin_table"])})
    by_sin = result.again({**sizes, "cos_table": torch.zeros_like(result.inputs["cos_table"])})
    return by_cos.abs() + by_sin.abs()

"""Scores and values of the attention kernels, in f64 and without any tiling, and their tolerance. Not a kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import Attrs, Result, Tensors
from .bounds import FUNCTION_UNITS, UNIT, in_units, sum_units
from .heads import split_heads


@dataclass(frozen=True, slots=True)
class Heads:
    """What queries score and sum.

    scores [B, H, S, T], -inf where a query does not see a key; values [B, H, T, D]; queries of batch entry b see keys
    in [first[b], last[b]) only.
    """

    scores: torch.Tensor
    values: torch.Tensor
    first: list[int]
    last: list[int]


def attention_heads(inputs: Tensors, attrs: Attrs) -> Heads:
    """What every query of an attention call scores and sums, from the call's slots and attributes."""
    heads, kv_heads, head_dim = int(attrs["heads"]), int(attrs["kv_heads"]), int(attrs["head_dim"])
    layout = int(attrs["kv_layout"])
    q = split_heads(
        inputs["q"], layout=int(attrs["q_layout"]), heads=heads, head_dim=head_dim, first=int(attrs["q_first"])
    )
    k, v = (
        split_heads(inputs[slot], layout=layout, heads=kv_heads, head_dim=head_dim, first=int(attrs[f"{slot}_first"]))
        * _token_scales(inputs, slot, layout)
        for slot in ("k", "v")
    )
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * float(attrs["scale"])
    cap = float(attrs["soft_cap"])
    if cap > 0:
        scores = cap * torch.tanh(scores / cap)
    seen, first, last = _positions(inputs["position"], attrs, q.shape[0], q.shape[2], k.shape[2])
    scores = scores.masked_fill(~seen, -torch.inf)
    if attrs["masked"]:
        mask = inputs["mask"]
        scores = scores.masked_fill(mask == 0, -torch.inf) if mask.dtype == torch.uint8 else scores + mask.double()
    return Heads(scores, v, first, last)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up; b > 0."""
    return (a + b - 1) // b


def _token_scales(inputs: Tensors, slot: str, layout: int) -> torch.Tensor | float:
    if f"{slot}_scale" not in inputs:
        return 1.0
    scales = inputs[f"{slot}_scale"].double()
    return (scales if layout == 0 else scales.transpose(1, 2)).unsqueeze(-1)


def _positions(
    position: torch.Tensor, attrs: Attrs, batch: int, queries: int, keys: int
) -> tuple[torch.Tensor, list[int], list[int]]:
    """seen [B, 1, S, T]; by batch entry the first and one past the last key that causal, window and filled leave."""
    start = position.reshape(-1).long()
    start = start[:batch] if attrs["position_per_batch"] else start[:1].expand(batch)
    window = int(attrs["window"])
    query = start.reshape(-1, 1, 1, 1) + torch.arange(queries).reshape(-1, 1)
    key = torch.arange(keys)
    seen = torch.ones(batch, 1, queries, keys, dtype=torch.bool)
    if attrs["causal"]:
        seen &= key <= query
    if window > 0:
        seen &= key > query - window
    if attrs["filled"]:
        seen &= key < start.reshape(-1, 1, 1, 1) + queries
    bounded = bool(attrs["causal"]) or bool(attrs["filled"])
    last = [max(min(keys, int(at) + queries), 0) if bounded else keys for at in start]
    first = [min(max(int(at) + 1 - window, 0), end) if window > 0 else 0 for at, end in zip(start, last, strict=True)]
    return seen, first, last


def attention_bound(result: Result, *, off: float = 0.0) -> torch.Tensor:
    """How far attention, and the partial sums of attention_decode_partial, may be off.

    off: what a score is off by beside its rounding.
    """
    length = result.inputs["k"].shape[1 if result.attrs["kv_layout"] else 2]
    units = FUNCTION_UNITS + sum_units(length) + 2 * (score_units(result) + off / UNIT)
    return in_units(units, result.again(result.sizes("v")))


def score_units(result: Result) -> float:
    """Units of 1 by which a score is off: the rounding of the largest one's terms, and of its soft cap."""
    terms = sum_units(int(result.attrs["head_dim"])) * largest_score(result)
    return terms + 8 * max(float(result.attrs["soft_cap"]), 0.0)


def largest_score(result: Result, **changed: torch.Tensor) -> float:
    """The largest sum of the sizes of a seen key's products, before any soft cap."""
    sizes = {**result.inputs, **result.sizes("q", "k"), **changed}
    scores = attention_heads(sizes, {**result.attrs, "soft_cap": 0.0}).scores
    seen = scores[torch.isfinite(scores)].abs()
    return float(seen.max()) if seen.numel() else 0.0

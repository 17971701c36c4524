"""Weighted sums and softmax statistics of every split of the keys, in f64."""

from __future__ import annotations

import torch

from ..kernels._generated.signatures import SIGNATURES
from . import Attrs, Outputs, Result, Tensors
from .attention_math import attention_bound, attention_heads, ceil_div, score_units
from .bounds import FUNCTION_UNITS, UNIT, in_units, sum_units

STEP = SIGNATURES["attention_decode_partial"].constants["SPLIT_STEP"]  # splits are multiples of this many keys
HIDDEN = -3.4028234663852886e38  # largest score of a split that sees no key

NO_KEY = -1e38  # below this the largest score of a split says that it saw no key


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """The slots of `attention` -> partial [B, kv_heads, splits, S * group, D], stats [..., 2]: largest score, sum."""
    heads = attention_heads(inputs, attrs)
    batch, kv_heads, splits, _, _ = outputs["partial"].shape
    partial = torch.zeros(outputs["partial"].shape, dtype=torch.float64)
    stats = torch.zeros(outputs["stats"].shape, dtype=torch.float64)
    stats[..., 0] = HIDDEN
    for b in range(batch):
        first, last = heads.first[b], heads.last[b]
        part = ceil_div(ceil_div(last - first, splits), STEP) * STEP
        for split in range(splits):
            begin = min(first + split * part, last)
            span = slice(begin, min(begin + part, last))
            if span.start == span.stop:
                continue
            scores = heads.scores[b, :, :, span]
            largest = scores.amax(-1)
            largest = torch.where(largest == -torch.inf, HIDDEN, largest)
            weights = torch.exp(scores - largest.unsqueeze(-1))
            partial[b, :, split] = _rows(weights @ heads.values[b, :, span], kv_heads)
            stats[b, :, split] = _rows(torch.stack([largest, weights.sum(-1)], -1), kv_heads)
    return {"partial": partial, "stats": stats}


def _rows(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[H, S, n] -> [kv_heads, S * group, n], the group's heads side by side for each query."""
    heads, queries, width = x.shape
    return x.reshape(kv_heads, heads // kv_heads, queries, width).transpose(1, 2).reshape(kv_heads, -1, width)


def tolerance(result: Result) -> torch.Tensor:
    """Of the partial sums, or of every split the largest score and the sum of exponentials."""
    if result.slot == "partial":
        return attention_bound(result)
    largest, total = result.wanted.double().unbind(-1)
    units = score_units(result)
    bound = UNIT * units + 4 * UNIT * largest.abs() + torch.where(largest < NO_KEY, 0.1 * largest.abs(), 0.0)
    length = result.inputs["k"].shape[1 if result.attrs["kv_layout"] else 2]
    return torch.stack([bound, in_units(FUNCTION_UNITS + sum_units(length) + 2 * units, total)], -1)

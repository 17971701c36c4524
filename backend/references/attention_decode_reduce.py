"""Joins the splits of attention_decode_partial, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .attention_decode_partial import NO_KEY
from .bounds import FUNCTION_UNITS, in_units, sum_units
from .heads import join_heads


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """partial [B, kv_heads, splits, S * group, D], stats [..., 2] -> y; a row without weight is 0, or NaN."""
    partial, stats = inputs["partial"].double(), inputs["stats"].double()
    factors = torch.exp(stats[..., 0] - stats[..., 0].amax(2, keepdim=True))
    weight = (factors * stats[..., 1]).sum(2)
    y = (factors.unsqueeze(-1) * partial).sum(2) / weight.unsqueeze(-1)
    if not attrs["nan_rows"]:
        y = y.masked_fill((weight == 0).unsqueeze(-1), 0.0)
    batch, kv_heads, rows, head_dim = y.shape
    group = int(attrs["heads"]) // int(attrs["kv_heads"])
    y = y.reshape(batch, kv_heads, rows // group, group, head_dim).transpose(2, 3)
    y = y.reshape(batch, kv_heads * group, rows // group, head_dim)
    return {"y": join_heads(y, outputs["y"].shape, layout=int(attrs["y_layout"]))}


def tolerance(result: Result) -> torch.Tensor:
    largest = result.inputs["stats"][..., 0].double().nan_to_num(0.0)
    span = float(torch.where(largest < NO_KEY, 0.0, largest.abs()).max()) if largest.numel() else 0.0
    units = FUNCTION_UNITS + sum_units(result.inputs["partial"].shape[2]) + 2 * span
    return in_units(units, result.again(result.sizes("partial")))

"""Scaled dot-product attention in f64. Source: torch 2.13 `scaled_dot_product_attention`, whose empty rows are 0."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .attention_math import attention_bound, attention_heads
from .heads import join_heads


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """q, k, v, mask, position and, of i8 keys and values, k_scale and v_scale -> y."""
    heads = attention_heads(inputs, attrs)
    weights = torch.softmax(heads.scores, -1)
    if not attrs["nan_rows"]:
        weights = weights.masked_fill((heads.scores == -torch.inf).all(-1, keepdim=True), 0.0)
    y = weights @ heads.values
    return {"y": join_heads(y, outputs["y"].shape, layout=int(attrs["y_layout"]))}


tolerance = attention_bound

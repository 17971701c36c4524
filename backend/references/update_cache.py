"""New keys or values in their places in the cache; `cache` among the inputs is what it held before."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact
from .heads import split_heads, token_positions, write_cache


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x, position, cache -> cache."""
    x = new_heads(inputs, attrs)
    positions = token_positions(inputs["position"], attrs, batch=x.shape[0], tokens=x.shape[2])
    return {"cache": write_cache(inputs["cache"], x, positions, layout=int(attrs["cache_layout"]))}


def new_heads(inputs: Tensors, attrs: Attrs) -> torch.Tensor:
    """x as [B, H, S, D] f64."""
    return split_heads(
        inputs["x"],
        layout=int(attrs["x_layout"]),
        heads=int(attrs["heads"]),
        head_dim=int(attrs["head_dim"]),
        first=int(attrs["x_first"]),
    )


tolerance = exact

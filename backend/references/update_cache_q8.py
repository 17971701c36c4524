"""New keys or values in an int8 cache, symmetric with one scale a token and head, in f32 as the kernel."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import in_units
from .heads import token_positions, write_cache
from .update_cache import new_heads

ROUNDS_TO_CODES = True
TIE = 1e-4  # how near a tie, in codes, a rounding may fall either way


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x, position, cache, cache_scale -> cache, cache_scale; the inputs hold the caches as they were."""
    x = new_heads(inputs, attrs).float()
    scale = x.abs().amax(-1).clamp(min=1e-30) / 127.0
    codes = torch.round(x * (1.0 / scale).unsqueeze(-1)).clamp(-127, 127)
    positions = token_positions(inputs["position"], attrs, batch=x.shape[0], tokens=x.shape[2])
    layout = int(attrs["cache_layout"])
    return {
        "cache": write_cache(inputs["cache"], codes, positions, layout=layout),
        "cache_scale": write_cache(inputs["cache_scale"], scale, positions, layout=layout),
    }


def tolerance(result: Result) -> torch.Tensor:
    """Scales are rounded twice, codes are next to each other where the number is near a tie."""
    if result.slot == "cache_scale":
        return in_units(4.0, result.wanted.abs())
    empty = {"cache": torch.zeros(result.wanted.shape, dtype=torch.float64)}
    x = result.again(empty, kernel="update_cache")
    exact = x / result.again({}, slot="cache_scale").unsqueeze(-1)
    return ((exact - exact.floor() - 0.5).abs() < TIE).double()

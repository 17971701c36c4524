"""Root-mean-square normalization of each row, in f64."""

from __future__ import annotations

import math

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import FUNCTION_UNITS, in_units, sum_units
from .strides import rows


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x, optional weight [row_length] -> y of as many rows; attrs eps, weight_offset."""
    shape = outputs["y"].shape
    x = rows(inputs["x"], attrs, math.prod(shape) // int(attrs["row_length"])).double()
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + float(attrs["eps"]))
    weight = inputs["weight"].double() if "weight" in inputs else 0.0
    return {"y": (y * (weight + float(attrs["weight_offset"]))).reshape(shape)}


def tolerance(result: Result) -> torch.Tensor:
    attrs = {**result.attrs, "weight_offset": abs(float(result.attrs["weight_offset"]))}
    magnitude = result.again(result.sizes("x", "weight"), attrs)
    return in_units(FUNCTION_UNITS + sum_units(int(result.attrs["row_length"])), magnitude)

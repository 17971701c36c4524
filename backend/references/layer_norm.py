"""Layer normalization of each row, in f64."""

from __future__ import annotations

import math

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import FUNCTION_UNITS, in_units, sum_units
from .strides import rows


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x, optional weight and bias [row_length] -> y of as many rows; attr eps."""
    shape, length = outputs["y"].shape, int(attrs["row_length"])
    x = rows(inputs["x"], attrs, math.prod(shape) // length).double()
    weight, bias = (inputs[name].double().flatten() if name in inputs else None for name in ("weight", "bias"))
    y = torch.nn.functional.layer_norm(x, [length], weight, bias, float(attrs["eps"]))
    return {"y": y.reshape(shape)}


def tolerance(result: Result) -> torch.Tensor:
    """The mean is rounded, so an element is off by the row's size against its deviation."""
    length = int(result.attrs["row_length"])
    x = rows(result.inputs["x"], result.attrs, result.wanted.numel() // length).double()
    deviation = torch.sqrt(x.var(-1, correction=0, keepdim=True) + float(result.attrs["eps"]))
    magnitude = (x.abs() + x.abs().mean(-1, keepdim=True)) / deviation
    factors = result.sizes("weight", "bias")
    if "weight" in factors:
        magnitude = magnitude * factors["weight"].double().flatten()
    if "bias" in factors:
        magnitude = magnitude + factors["bias"].double().flatten()
    return in_units(FUNCTION_UNITS + sum_units(length), magnitude.reshape(result.wanted.shape))

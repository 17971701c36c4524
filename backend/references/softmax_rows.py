"""Softmax or its logarithm of each row, in f64."""

from __future__ import annotations

import math

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import FUNCTION_UNITS, in_units, sum_units
from .strides import rows


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x -> y of as many rows; attr logarithm."""
    shape = outputs["y"].shape
    x = rows(inputs["x"], attrs, math.prod(shape) // int(attrs["row_length"])).double()
    y = torch.log_softmax(x, -1) if attrs["logarithm"] else torch.softmax(x, -1)
    return {"y": y.reshape(shape)}


def tolerance(result: Result) -> torch.Tensor:
    """A rounded x - max moves the exponent by as much as max is rounded; the log adds the sum's error."""
    length = int(result.attrs["row_length"])
    x = rows(result.inputs["x"], result.attrs, result.wanted.numel() // length).double().nan_to_num(0.0, 0.0, 0.0)
    span = (x.abs().amax(-1, keepdim=True) + x.abs()).reshape(result.wanted.shape)
    magnitude = 1 + span + math.log(length) if result.attrs["logarithm"] else result.wanted.abs() * (1 + span)
    return in_units(FUNCTION_UNITS + sum_units(length), magnitude)

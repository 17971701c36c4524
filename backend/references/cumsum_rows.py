"""Running sums of each row, in f64 or in integers."""

from __future__ import annotations

import math

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import in_units, sum_units
from .strides import rows


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x -> y of as many rows."""
    spec = outputs["y"]
    x = rows(inputs["x"], attrs, math.prod(spec.shape) // int(attrs["row_length"]))
    y = torch.cumsum(x.double() if x.is_floating_point() else x, -1)
    return {"y": (y if spec.dtype.is_floating_point else y.to(spec.dtype)).reshape(spec.shape)}


def tolerance(result: Result) -> torch.Tensor:
    if not result.wanted.is_floating_point():
        return torch.zeros(())
    return in_units(sum_units(int(result.attrs["row_length"])), result.again(result.sizes("x")))

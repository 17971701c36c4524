"""One element for each row, in f64 or in integers."""

from __future__ import annotations

import math

import torch

from ..kernels._generated.signatures import ReduceOp
from . import Attrs, Outputs, Result, Tensors
from .bounds import in_units, sum_units
from .strides import rows


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x -> y, one element a row; attr op."""
    spec = outputs["y"]
    x = rows(inputs["x"], attrs, math.prod(spec.shape))
    op = ReduceOp(int(attrs["op"]))
    x = x.double() if x.is_floating_point() else x
    match op:
        case ReduceOp.SUM:
            y = x.sum(-1)
        case ReduceOp.MEAN:
            y = x.double().mean(-1)
        case ReduceOp.AMAX:
            y = x.amax(-1)
        case ReduceOp.AMIN:
            y = x.amin(-1)
    return {"y": (y if spec.dtype.is_floating_point else y.to(spec.dtype)).reshape(spec.shape)}


def tolerance(result: Result) -> torch.Tensor:
    if not result.wanted.is_floating_point() or ReduceOp(int(result.attrs["op"])) in (ReduceOp.AMAX, ReduceOp.AMIN):
        return torch.zeros(())
    return in_units(sum_units(int(result.attrs["row_length"])), result.again(result.sizes("x")))

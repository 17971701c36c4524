"""One element for each row, in f64 or in integers."""

from __future__ import annotations

import math

import torch

from ..opcodes import ReduceOp
from . import Attrs, Outputs, Tensors
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

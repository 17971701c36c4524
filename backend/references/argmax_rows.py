"""Index of the largest or smallest element of each row."""

from __future__ import annotations

import math

import torch

from ..kernels._generated.signatures import ArgReduceOp
from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import rows


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x -> y i32: the first of equal elements, the first NaN when there is one."""
    spec = outputs["y"]
    x = rows(inputs["x"], attrs, math.prod(spec.shape))
    x = torch.where(x == 0, torch.zeros((), dtype=x.dtype), x)
    best = x.amax(-1) if ArgReduceOp(int(attrs["op"])) is ArgReduceOp.ARGMAX else x.amin(-1)
    best = best.unsqueeze(-1)
    hit = (x == best) | (torch.isnan(x) & torch.isnan(best))
    return {"y": hit.to(torch.int32).argmax(-1).to(torch.int32).reshape(spec.shape)}


tolerance = exact

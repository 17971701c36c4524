"""start + i * step."""

from __future__ import annotations

import math

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """y [n] = start + i * step, integers in the dtype of y."""
    spec = outputs["y"]
    y = int(attrs["start"]) + torch.arange(math.prod(spec.shape), dtype=torch.int64) * int(attrs["step"])
    return {"y": y.to(spec.dtype).reshape(spec.shape)}


tolerance = exact

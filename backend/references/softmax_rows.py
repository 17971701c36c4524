"""Softmax or its logarithm of each row, in f64."""

from __future__ import annotations

import math

import torch

from . import Attrs, Outputs, Tensors
from .strides import rows


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x -> y of as many rows; attr logarithm."""
    shape = outputs["y"].shape
    x = rows(inputs["x"], attrs, math.prod(shape) // int(attrs["row_length"])).double()
    y = torch.log_softmax(x, -1) if attrs["logarithm"] else torch.softmax(x, -1)
    return {"y": y.reshape(shape)}

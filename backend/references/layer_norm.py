"""Layer normalization of each row, in f64."""

from __future__ import annotations

import math

import torch

from . import Attrs, Outputs, Tensors
from .strides import rows


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x, optional weight and bias [row_length] -> y of as many rows; attr eps."""
    shape, length = outputs["y"].shape, int(attrs["row_length"])
    x = rows(inputs["x"], attrs, math.prod(shape) // length).double()
    weight, bias = (inputs[name].double().flatten() if name in inputs else None for name in ("weight", "bias"))
    y = torch.nn.functional.layer_norm(x, [length], weight, bias, float(attrs["eps"]))
    return {"y": y.reshape(shape)}

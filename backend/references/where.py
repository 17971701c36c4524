"""One of two elements by a condition."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import view


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Strided views condition (u8), a, b -> y, dense over size0..3."""
    condition = view(inputs["condition"], attrs, "condition") != 0
    y = torch.where(condition, view(inputs["a"], attrs, "a"), view(inputs["b"], attrs, "b"))
    return {"y": y.reshape(outputs["y"].shape)}


tolerance = exact

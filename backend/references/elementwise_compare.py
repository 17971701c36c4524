"""Comparisons and logical operators of two elements."""

from __future__ import annotations

import torch

from ..kernels._generated.signatures import CompareOp
from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import view


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Strided views a, b -> y u8, 0 or 1, dense over size0..3; attr op."""
    op = CompareOp(int(attrs["op"]))
    a, b = view(inputs["a"], attrs, "a"), view(inputs["b"], attrs, "b")
    if op is CompareOp.LOGICAL_NAND:
        y = torch.logical_not(torch.logical_and(a, b))
    else:
        y = getattr(torch, op.name.lower())(a, b)
    return {"y": y.to(torch.uint8).reshape(outputs["y"].shape)}


tolerance = exact

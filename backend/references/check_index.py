"""Indices within bounds, and a report of the first that is not."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import view


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x, faults [5] -> y, faults."""
    x = view(inputs["x"], attrs, "x")
    low, high, wrap = (int(attrs[name]) for name in ("low", "high", "wrap"))
    inside = (x >= low) & (x <= high)
    y = torch.where(inside, torch.where(x < 0, x + wrap, x), int(attrs["outside"]))
    faults, bad = inputs["faults"].clone(), (~inside).flatten().nonzero().flatten()
    if len(bad) and not faults[0]:
        element = int(bad[0])
        values = [int(attrs["call"]) + 1, element, int(x.flatten()[element]), low, high]
        faults = torch.tensor(values, dtype=torch.int32)
    return {"y": y.reshape(outputs["y"].shape), "faults": faults}


tolerance = exact

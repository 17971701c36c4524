"""A strided view of x written to a strided view of y, with torch's casts."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import places, sizes, view


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """y holds the copied elements, and zero where the call writes nothing."""
    spec = outputs["y"]
    y = torch.zeros(spec.shape, dtype=spec.dtype)
    y.view(-1)[places(attrs, "y", sizes(attrs))] = _cast(view(inputs["x"], attrs, "x"), spec.dtype)
    return {"y": y}


def written(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Which elements of y the call writes."""
    mask = torch.zeros(outputs["y"].shape, dtype=torch.bool)
    mask.view(-1)[places(attrs, "y", sizes(attrs))] = True
    return {"y": mask}


def _cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not x.is_floating_point() or dtype.is_floating_point:
        return x.to(dtype)
    wide = x.double()
    inside = wide.abs() < 2.0**31
    return torch.where(inside, wide.nan_to_num(0.0, 0.0, 0.0), -(2.0**31)).long().to(torch.int32).to(dtype)


tolerance = exact

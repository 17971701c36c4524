"""Elements of x written into y along one axis, by an index tensor."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import places, sizes, view


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """y holds the written elements, and zero where the call writes nothing."""
    spec = outputs["y"]
    place, inside = _places(inputs, attrs)
    y = torch.zeros(spec.shape, dtype=spec.dtype)
    y.view(-1)[place[inside]] = view(inputs["x"], attrs, "x")[inside].to(spec.dtype)
    return {"y": y}


def written(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Which elements of y the call writes."""
    place, inside = _places(inputs, attrs)
    mask = torch.zeros(outputs["y"].shape, dtype=torch.bool)
    mask.view(-1)[place[inside]] = True
    return {"y": mask}


def _places(inputs: Tensors, attrs: Attrs) -> tuple[torch.Tensor, torch.Tensor]:
    at = view(inputs["index"], attrs, "index").long()
    length = int(attrs["axis_length"])
    at = torch.where(at < 0, at + length, at)
    return places(attrs, "y", sizes(attrs)) + at * int(attrs["axis_stride"]), (at >= 0) & (at < length)


tolerance = exact

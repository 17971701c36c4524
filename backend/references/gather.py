"""Elements of x along one axis, by an index tensor."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import places, sizes, view


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """y[p] = x[x_offset + p . x_stride + index[p] * axis_stride]; zero for an index outside axis_length."""
    at = view(inputs["index"], attrs, "index").long()
    length = int(attrs["axis_length"])
    at = torch.where(at < 0, at + length, at)
    inside = (at >= 0) & (at < length)
    x = inputs["x"].flatten()
    place = places(attrs, "x", sizes(attrs)) + torch.where(inside, at, 0) * int(attrs["axis_stride"])
    y = torch.where(inside, x[place], torch.zeros((), dtype=x.dtype))
    return {"y": y.reshape(outputs["y"].shape)}


tolerance = exact

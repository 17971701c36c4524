"""x with a border of one value."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import RANK, places, sizes


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """A strided view of x [x_size0..3], moved by before0..3 into y, dense over size0..3, and the value of bits."""
    spec = outputs["y"]
    shape, x_shape = sizes(attrs), sizes(attrs, "x_size")
    y = value_of(int(attrs["bits"]), spec.dtype).expand(shape).clone()
    x = inputs["x"].flatten()[places(attrs, "x", x_shape)]
    for axis in range(RANK):
        before = int(attrs[f"before{axis}"])
        first, last = max(0, -before), min(x_shape[axis], shape[axis] - before)
        x = x.narrow(axis, first, max(0, last - first))
    window = y
    for axis in range(RANK):
        window = window.narrow(axis, min(max(0, int(attrs[f"before{axis}"])), shape[axis]), x.shape[axis])
    window.copy_(x)
    return {"y": y.reshape(spec.shape)}


def value_of(bits: int, dtype: torch.dtype) -> torch.Tensor:
    """The value that the attribute `bits` stands for."""
    value = torch.tensor(bits, dtype=torch.int32)
    return (value.view(torch.float32) if dtype.is_floating_point else value).to(dtype)


tolerance = exact

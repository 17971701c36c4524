"""One value everywhere."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """bits: an f32 pattern where y is a float, otherwise the integer."""
    spec = outputs["y"]
    return {"y": value_of(int(attrs["bits"]), spec.dtype).expand(spec.shape).clone()}


def value_of(bits: int, dtype: torch.dtype) -> torch.Tensor:
    """The value that the attribute `bits` stands for."""
    value = torch.tensor(bits, dtype=torch.int32)
    return (value.view(torch.float32) if dtype.is_floating_point else value).to(dtype)

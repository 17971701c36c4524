"""Per-token scale and zero point. Source: torchao 0.18 `_choose_qparams_affine`, torch 2.13 `_decomposed.py`."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import in_units
from .quantize_and_pack import tolerance as nudged

SCALE_UNITS = 6.0


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x [..., K] -> scale [...] f32, zp [...], in f32 arithmetic whatever the dtype of x."""
    x = inputs["x"].float()
    qmin, qmax, eps, mapping = int(attrs["qmin"]), int(attrs["qmax"]), float(attrs["eps"]), int(attrs["mapping"])
    low = torch.clamp(x.amin(-1), max=0.0)
    high = torch.clamp(x.amax(-1), min=0.0)
    if mapping == 1:
        scale = torch.clamp(torch.maximum(-low, high) / ((qmax - qmin) / 2), min=eps)
        zero_point = torch.full_like(scale, int((qmax + qmin + 1) / 2))
    elif mapping == 3:
        scale = torch.clamp(torch.maximum(-low, high), min=eps) / qmax
        zero_point = torch.zeros_like(scale)
    else:
        scale = torch.clamp((high - low) / float(qmax - qmin), min=eps)
        zero_point = _two_sided(low, high, scale, qmin, qmax) if mapping == 2 else qmin - torch.round(low / scale)
        zero_point = torch.clamp(zero_point, qmin, qmax).round()
    zero_point = torch.where(torch.isnan(scale), 0.0, zero_point)
    return {
        "scale": scale.to(outputs["scale"].dtype).reshape(outputs["scale"].shape),
        "zp": zero_point.to(outputs["zp"].dtype).reshape(outputs["zp"].shape),
    }


def _two_sided(low: torch.Tensor, high: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    scaled_low, scaled_high = low / scale, high / scale
    from_low = (qmin + scaled_low) + (qmax + scaled_high) > 0
    return torch.where(from_low, qmin - scaled_low, qmax - scaled_high)


def tolerance(result: Result) -> torch.Tensor:
    """Scales are rounded, zero points may fall either way at a tie."""
    return in_units(SCALE_UNITS, result.wanted.abs()) if result.slot == "scale" else nudged(result)

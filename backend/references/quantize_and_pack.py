"""Quantization of activations. Source: torchao 0.18 `quantize_affine`, torch 2.13 `quantize_per_token`."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .packing import source_positions

ROUNDS_TO_CODES = True
NUDGE = 2.0**-22  # relative change of an input that a rounding to codes may not tell apart


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x [..., K], scale [...], zp [...] -> q [..., Kp] int8 and, when asked for, group_sums [..., steps] int32."""
    x = inputs["x"].float()
    rows = x.reshape(-1, x.shape[-1])
    scale = inputs["scale"].reshape(-1, 1)
    zero_point = inputs["zp"].reshape(-1, 1)
    codes = _quantize(rows, scale, zero_point, attrs)
    codes = torch.where(torch.isfinite(rows) & torch.isfinite(scale), codes, float(attrs["qmin"]))
    spec = outputs["q"]
    position = source_positions(
        x.shape[-1],
        spec.shape[-1],
        group_size=int(attrs["group_size"]),
        group_padded=int(attrs["group_padded"]),
    )
    packed = torch.where(position >= 0, codes[:, position.clamp(min=0)], 0.0)
    result = {"q": packed.to(torch.int8).reshape(spec.shape)}
    if "group_sums" in outputs:
        sums = outputs["group_sums"]
        step = int(attrs["step"])
        used = packed[:, : sums.shape[-1] * step].long()
        result["group_sums"] = used.reshape(len(rows), -1, step).sum(-1).to(sums.dtype).reshape(sums.shape)
    return result


def _quantize(rows: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, attrs: Attrs) -> torch.Tensor:
    match int(attrs["rounding"]):
        case 0:
            codes = torch.round(rows * (1.0 / scale)) + zero_point.float()
        case 1:
            codes = torch.round(rows.double() * (1.0 / scale.double()) + zero_point.double()).float()
        case 2:
            codes = torch.round(rows * (1.0 / scale) + zero_point.float())
        case other:
            raise AssertionError(f"rounding {other}")
    return torch.clamp(codes, float(attrs["qmin"]), float(attrs["qmax"]))


def tolerance(result: Result) -> torch.Tensor:
    """How far the result moves when x moves as little as rounding does: 0, or 1 at a tie."""
    x = result.inputs["x"].float()
    moved = [result.again({"x": x + change * x.abs()}) - result.wanted.double() for change in (NUDGE, -NUDGE)]
    return torch.maximum(moved[0].abs(), moved[1].abs())

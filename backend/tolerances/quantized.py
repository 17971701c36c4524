"""Bounds of quantized linears and of the quantization before them."""

from __future__ import annotations

import torch

from ..references.packing import scaled_weights, unpack_weight
from .units import Result, in_units, sum_units

NUDGE = 2.0**-22  # relative change of an input that a rounding to codes may not tell apart
SCALE_UNITS = 6.0


def parameters(result: Result) -> torch.Tensor:
    """choose_qparams_per_row: scales are rounded, zero points may fall either way at a tie."""
    return in_units(SCALE_UNITS, result.wanted.abs()) if result.slot == "scale" else nudged(result)


def nudged(result: Result) -> torch.Tensor:
    """How far the result moves when x moves as little as rounding does: 0, or 1 at a tie."""
    x = result.inputs["x"].float()
    moved = [result.again({"x": x + change * x.abs()}) - result.wanted.double() for change in (NUDGE, -NUDGE)]
    return torch.maximum(moved[0].abs(), moved[1].abs())


def dynamic_linear(result: Result) -> torch.Tensor:
    """linear_dq8ca_*: sums over a step are exact integers, the sum over steps is f32."""
    step, inputs = int(result.attrs["step"]), result.inputs
    w_scale = inputs["w_scale"].float()
    steps = w_scale.shape[0]
    q = inputs["q"].reshape(-1, inputs["q"].shape[-1])[:, : steps * step].float()
    w = unpack_weight(inputs["w"])[:, : steps * step].float()
    total = torch.einsum("msk,nsk->msn", q.reshape(len(q), steps, step), w.reshape(len(w), steps, step))
    total -= inputs["zp"].reshape(-1, 1, 1).float() * inputs["w_sum"].float()
    terms = torch.zeros(())
    if "w_zp" in inputs:
        sums = inputs["group_sums"].reshape(len(q), steps, 1).float()
        if inputs["w_zp"].is_floating_point():
            terms = (inputs["w_zp"] * (sums - inputs["zp"].reshape(-1, 1, 1).float() * step)).abs()
        else:
            total -= inputs["w_zp"].float() * sums
    magnitude = (total.abs_() * w_scale.abs() + terms).sum(1).double() * inputs["scale"].reshape(-1, 1).double().abs()
    if "bias" in inputs:
        magnitude = magnitude + inputs["bias"].double().abs()
    return in_units(sum_units(steps), magnitude.reshape(result.wanted.shape))


def weight_only_linear(result: Result) -> torch.Tensor:
    """linear_q*gsw: the sizes of all products are at most the product of the vectors' norms."""
    step, inputs = int(result.attrs["step"]), result.inputs
    w_scale = inputs["w_scale"].double().T
    w = unpack_weight(inputs["w"])[:, : w_scale.shape[1] * step].double().reshape(len(w_scale), -1, step)
    x = inputs["x"].reshape(-1, inputs["x"].shape[-1]).double()
    magnitude = x.norm(dim=-1, keepdim=True) * scaled_weights(w, inputs).flatten(1).norm(dim=-1)
    if "bias" in inputs:
        magnitude = magnitude + inputs["bias"].double().abs()
    return in_units(sum_units(x.shape[-1]), magnitude.reshape(result.wanted.shape))

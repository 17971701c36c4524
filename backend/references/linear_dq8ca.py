"""Linear of dynamically quantized activations and group-wise quantized weights, exact in integers, summed in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import in_units, sum_units
from .packing import sums_of_weights, unpack_weight


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """q, scale, zp, w, w_scale, optional w_sum, w_zp, group_sums, bias, residual -> y [..., N] (design, section 4)."""
    step = int(attrs["step"])
    w_scale = inputs["w_scale"].double()
    steps = w_scale.shape[0]
    q = inputs["q"].reshape(-1, inputs["q"].shape[-1])[:, : steps * step].double()
    w = unpack_weight(inputs["w"])[:, : steps * step].double()
    # Integers below 2**53 are exact in f64.
    dots = torch.einsum("msk,nsk->msn", q.reshape(len(q), steps, step), w.reshape(len(w), steps, step))
    zero_point = inputs["zp"].reshape(-1, 1, 1).double()
    total = dots - zero_point * sums_of_weights(inputs, step).double()
    total = w_scale * total
    if "w_zp" in inputs:
        sums, w_zp = inputs["group_sums"].reshape(len(q), steps, 1).double(), inputs["w_zp"].double()
        is_term = inputs["w_zp"].is_floating_point()
        total = total - (w_zp * (sums - zero_point * step) if is_term else w_scale * w_zp * sums)
    scale = inputs["scale"].reshape(-1, 1).double()
    y = scale * total.sum(1)
    if "bias" in inputs:
        y = y + inputs["bias"].double()
    y = torch.where(torch.isfinite(scale), y, torch.nan)
    y = y.reshape(outputs["y"].shape)
    return {"y": y + inputs["residual"].double().reshape(y.shape) if "residual" in inputs else y}


def tolerance(result: Result) -> torch.Tensor:
    """Sums over a step are exact integers, the sum over steps is f32.

    Without weight zero points, cooperative matrices round sums over 32 positions, of which a longer step has several:
    where they cancel, their error is beyond any bound by steps, as eager's is.
    """
    step, inputs = int(result.attrs["step"]), result.inputs
    w_scale = inputs["w_scale"].float()
    length = len(w_scale) * step
    added = 32 if "w_zp" not in inputs and step % 32 == 0 else step  # positions
    w_scale = w_scale.repeat_interleave(step // added, 0)
    steps = w_scale.shape[0]
    q = inputs["q"].reshape(-1, inputs["q"].shape[-1])[:, :length].float().reshape(-1, steps, added)
    w = unpack_weight(inputs["w"])[:, :length].float().reshape(-1, steps, added)
    sums_of_w = sums_of_weights(inputs, step).float() if "w_zp" in inputs else w.sum(2).T
    total = torch.einsum("msk,nsk->msn", q, w) - inputs["zp"].reshape(-1, 1, 1).float() * sums_of_w
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
    bound = in_units(sum_units(steps), magnitude.reshape(result.wanted.shape))
    if "residual" in inputs:
        size = inputs["residual"].double().abs().reshape(result.wanted.shape)
        bound = bound + in_units(2.0, result.wanted.double().abs() + 2 * size)
    return bound

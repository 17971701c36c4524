"""Weight-only linear on group-wise quantized weights, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import in_units, sum_units
from .packing import scaled_weights, source_positions, unpack_weight


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x [..., K], w, w_scale and optional w_zp, bias -> y [..., N] (section 4 of docs/design.md)."""
    step = int(attrs["step"])
    steps = inputs["w_scale"].shape[0]
    w = unpack_weight(inputs["w"])[:, : steps * step].double().reshape(-1, steps, step)
    w = scaled_weights(w, inputs).reshape(len(w), -1)
    x = inputs["x"].reshape(-1, inputs["x"].shape[-1]).double()
    position = source_positions(
        x.shape[-1], steps * step, group_size=int(attrs["group_size"]), group_padded=int(attrs["group_padded"])
    )
    y = x[:, position[position >= 0]] @ w[:, position >= 0].T
    if "bias" in inputs:
        y = y + inputs["bias"].double()
    return {"y": y.reshape(outputs["y"].shape)}


def tolerance(result: Result) -> torch.Tensor:
    """The sizes of all products are at most the product of the vectors' norms."""
    step, inputs = int(result.attrs["step"]), result.inputs
    w_scale = inputs["w_scale"].double().T
    w = unpack_weight(inputs["w"])[:, : w_scale.shape[1] * step].double().reshape(len(w_scale), -1, step)
    x = inputs["x"].reshape(-1, inputs["x"].shape[-1]).double()
    magnitude = x.norm(dim=-1, keepdim=True) * scaled_weights(w, inputs).flatten(1).norm(dim=-1)
    if "bias" in inputs:
        magnitude = magnitude + inputs["bias"].double().abs()
    return in_units(sum_units(x.shape[-1]), magnitude.reshape(result.wanted.shape))

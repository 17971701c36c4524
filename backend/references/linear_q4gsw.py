"""Weight-only linear on 4-bit group-wise weights, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
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

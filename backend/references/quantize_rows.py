"""Each row's scale, zero point and codes, after an RMS norm or a gated activation or neither."""

from __future__ import annotations

import math

import torch

from . import Attrs, Outputs, OutputSpec, Tensors
from .choose_qparams_per_row import reference as choose_qparams
from .quantize_and_pack import reference as quantize_and_pack
from .row_values import row_values


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x, weight, up (by attribute prologue) -> scale [...], zp [...], q [..., Kp], optional group_sums [..., steps]."""
    n_rows = math.prod(outputs["q"].shape[:-1])
    return quantized({"x": row_values(inputs, attrs, n_rows).float()}, attrs, outputs)


def quantized(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """The same of the rows' values, x [rows, K]; codes are of the scale and the zero point as they are stored."""
    x = inputs["x"]
    flat = {name: OutputSpec((len(x),), outputs[name].dtype) for name in ("scale", "zp")}
    chosen = choose_qparams({"x": x}, attrs, flat)
    codes = quantize_and_pack({"x": x, **chosen}, attrs, outputs)
    return {**{name: value.reshape(outputs[name].shape) for name, value in chosen.items()}, **codes}

"""Each row's scale, zero point and codes, after an RMS norm or a gated activation or neither."""

from __future__ import annotations

import math

import torch

from ..kernels._generated.signatures import Prologue
from . import Attrs, Outputs, OutputSpec, Result, Tensors
from .bounds import FUNCTION_UNITS, UNIT, in_units, sum_units
from .choose_qparams_per_row import SCALE_UNITS
from .choose_qparams_per_row import reference as choose_qparams
from .packing import source_positions
from .quantize_and_pack import reference as quantize_and_pack
from .row_values import near_ties, row_values, value_errors

ROUNDS_TO_CODES = True


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


def tolerance(result: Result) -> torch.Tensor:
    values, near = near_ties(result)
    if result.slot == "scale":
        return _scale_bound(result).reshape(result.wanted.shape)
    zero_points, codes = near[:, :1], near[:, 1:]
    if result.slot == "zp":
        return zero_points.reshape(result.wanted.shape)
    packed = torch.nn.functional.pad(codes + zero_points, (0, 1))[:, _places(result, values.shape[1])]
    if result.slot == "q":
        return packed.reshape(result.wanted.shape)
    step, steps = int(result.attrs["step"]), result.wanted.shape[-1]
    return packed[:, : steps * step].reshape(-1, steps, step).sum(-1).reshape(result.wanted.shape)


def _scale_bound(result: Result) -> torch.Tensor:
    """How far a row's scale may be off."""
    own = in_units(SCALE_UNITS, result.wanted.abs().flatten())
    if result.attrs["prologue"] == Prologue.NONE:
        return own
    n_rows = result.wanted.numel()
    values = row_values(result.inputs, result.attrs, n_rows)
    error = value_errors(result, values).amax(1) * 2 / (float(result.attrs["qmax"]) - float(result.attrs["qmin"]))
    length = 0 if result.attrs["prologue"] == Prologue.GATED else int(result.attrs["row_length"])
    return own + error + (FUNCTION_UNITS + sum_units(length)) * UNIT * result.wanted.double().abs().flatten()


def _places(result: Result, row_length: int) -> torch.Tensor:
    """For each packed position the element that it holds; -1, one past the last, in the padding."""
    attrs = result.attrs
    sizes = {"group_size": int(attrs["group_size"]), "group_padded": int(attrs["group_padded"])}
    return source_positions(row_length, result.inputs["q"].shape[-1], **sizes)

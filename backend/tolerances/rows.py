"""Bounds of kernels that quantize a row of values that they compute themselves.

The values are rounded, and so a code may fall on either side of a tie.
"""

from __future__ import annotations

import math

import torch

from ..opcodes import GateOp, Prologue
from ..references.packing import scaled_weights, source_positions, unpack_weight
from ..references.row_linear import Quantized, gate, linear_outputs, quantized_input
from ..references.row_values import row_values
from ..references.strides import rows
from .quantized import SCALE_UNITS, dynamic_linear
from .units import FUNCTION_UNITS, UNIT, Result, gelu_tanh_magnitude, in_units, sum_units

PLAIN_UNITS = 4.0  # of a value against the row's scale: x is exact, the scale is not
NORM_UNITS = 10.0  # and what the factors of an element are rounded by; the norm's own factor is the whole row's
STEEPEST = 1.2  # slope of a gate's activation


def quantized_rows(result: Result) -> torch.Tensor:
    """quantize_rows."""
    values, near = near_ties(result)
    if result.slot == "scale":
        return scale_bound(result).reshape(result.wanted.shape)
    zero_points, codes = near[:, :1], near[:, 1:]
    if result.slot == "zp":
        return zero_points.reshape(result.wanted.shape)
    packed = torch.nn.functional.pad(codes + zero_points, (0, 1))[:, _places(result, values.shape[1])]
    if result.slot == "q":
        return packed.reshape(result.wanted.shape)
    step, steps = int(result.attrs["step"]), result.wanted.shape[-1]
    return packed[:, : steps * step].reshape(-1, steps, step).sum(-1).reshape(result.wanted.shape)


def near_ties(result: Result) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows' values, and 1 where the zero point (column 0) or an element's code may fall on either side of a tie."""
    n_rows = result.inputs["q"].numel() // result.inputs["q"].shape[-1] if "q" in result.inputs else 1
    values = row_values(result.inputs, result.attrs, n_rows)
    low, high = values.amin(1, keepdim=True).clamp(max=0.0), values.amax(1, keepdim=True).clamp(min=0.0)
    span = float(result.attrs["qmax"]) - float(result.attrs["qmin"])
    scale = ((high - low) / span).clamp(min=float(result.attrs["eps"]))
    if result.attrs["mapping"] == 1:
        scale = (torch.maximum(-low, high) / (span / 2)).clamp(min=float(result.attrs["eps"]))
    elif result.attrs["mapping"] == 3:
        scale = torch.maximum(-low, high).clamp(min=float(result.attrs["eps"])) / float(result.attrs["qmax"])
    error = value_errors(result, values) / scale
    exact, slack = torch.cat([low, values], 1) / scale, torch.cat([error.amax(1, keepdim=True), error], 1)
    if result.attrs["mapping"] in (1, 3):
        slack[:, 0] = -1.0  # the zero point is a constant
    units = PLAIN_UNITS if result.attrs["prologue"] == Prologue.NONE else 0.0
    slack = slack + in_units(units, exact.abs())
    return values, ((exact - exact.floor() - 0.5).abs() <= slack).double().nan_to_num(0.0)


def value_errors(result: Result, values: torch.Tensor) -> torch.Tensor:
    """How far an element's value may be off, apart from what moves its whole row alike."""
    if result.attrs["prologue"] == Prologue.NONE:
        return torch.zeros_like(values)
    if result.attrs["prologue"] != Prologue.GATED:
        return in_units(NORM_UNITS, values.abs())
    if GateOp(int(result.attrs["op"])) is not GateOp.GELU_TANH:
        return in_units(FUNCTION_UNITS + NORM_UNITS, values.abs())
    length, names = int(result.attrs["row_length"]), ("offset", "outer_stride", "inner_stride", "inner_rows")
    gate = rows(
        result.inputs["x"], {**{f"x_{n}": result.attrs[f"x_{n}"] for n in names}, "row_length": length}, len(values)
    )
    places = {"x_offset": result.attrs["up_offset"], "x_inner_rows": 1, "x_outer_stride": result.attrs["up_row_stride"]}
    up = rows(result.inputs["up"], {**places, "x_inner_stride": 0, "row_length": length}, len(values))
    return in_units(FUNCTION_UNITS + NORM_UNITS, gelu_tanh_magnitude(gate) * up.double().abs())


def scale_bound(result: Result) -> torch.Tensor:
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


def row_linear(result: Result) -> torch.Tensor:
    """row_linear_q4gsw and row_linear_q8gsw: as the linear, and what the codes do that may fall either way."""
    attrs = result.attrs
    found = quantized_input(result.inputs, attrs, math.prod(result.wanted.shape[:-1]))
    v = linear_outputs(found, attrs)
    flips = _flipped(result, found)
    # The row's scale is as far off as the norm's factor and itself are; it multiplies all but the bias.
    units = SCALE_UNITS
    if attrs["prologue"] != Prologue.NONE:
        units += FUNCTION_UNITS + sum_units(int(attrs["row_length"]))
    product = v if "bias" not in result.inputs else v - result.inputs["bias"].double()
    linear = Result(result.kernel, "y", found.slots, {"step": attrs["step"]}, v)
    bound = flips + dynamic_linear(linear) + in_units(units, product.abs())
    if attrs["gated"]:
        half = v.shape[1] // 2
        own, up = bound[:, :half], bound[:, half:]
        y = gate(v, attrs)
        inside = gelu_tanh_magnitude(v[:, :half]) * v[:, half:].abs()
        bound = STEEPEST * own * (v[:, half:].abs() + up) + up * v[:, :half].abs()
        bound = bound + in_units(FUNCTION_UNITS + 2, torch.maximum(inside, y.abs()))
        v = y
    if "residual" in result.inputs:
        bound = bound + in_units(2.0, v.abs() + result.inputs["residual"].double().abs().reshape(v.shape))
    return bound.reshape(result.wanted.shape)


def _flipped(result: Result, found: Quantized) -> torch.Tensor:
    """How far the linear's outputs move when every code near a tie falls the other way [M, N]."""
    attrs, slots = result.attrs, found.slots
    _, near = near_ties(result)
    q = slots["q"].double()
    places = source_positions(
        found.values.shape[1],
        q.shape[1],
        group_size=int(attrs["group_size"]),
        group_padded=int(attrs["group_padded"]),
    )
    codes = torch.nn.functional.pad(near[:, 1:], (0, 1))[:, places]
    # Another zero point moves all codes alike, but for those that are cut off.
    ends = ((q == float(attrs["qmin"])) | (q == float(attrs["qmax"]))).double() * near[:, :1]
    steps, step = slots["w_scale"].shape[0], int(attrs["step"])
    w = unpack_weight(slots["w"])[:, : steps * step].double().reshape(-1, steps, step)
    sizes = scaled_weights(w, slots).abs().flatten(1)
    moved = torch.maximum(codes, ends)[:, : steps * step] @ sizes.T
    return moved * slots["scale"].double().reshape(-1, 1).abs().nan_to_num(0.0, 0.0, 0.0)

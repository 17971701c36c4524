"""A row through RMS norm, quantization, a linear, and a gated activation or a residual."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..kernels._generated.signatures import Prologue
from . import Attrs, Outputs, OutputSpec, Result, Tensors
from .bounds import FUNCTION_UNITS, gelu_tanh_magnitude, in_units, sum_units
from .choose_qparams_per_row import SCALE_UNITS
from .gated_activation import reference as gated_activation
from .linear_dq8ca import reference as linear
from .linear_dq8ca import tolerance as linear_tolerance
from .packing import scaled_weights, source_positions, unpack_weight
from .quantize_rows import quantized
from .row_values import near_ties, row_values


@dataclass(frozen=True, slots=True)
class Quantized:
    """The values of the rows [M, K], f64, and what the linear reads: its slots by name."""

    values: torch.Tensor
    slots: dict[str, torch.Tensor]


STEEPEST = 1.2  # slope of a gate's activation


def quantized_input(inputs: Tensors, attrs: Attrs, n_rows: int) -> Quantized:
    """The linear's q, scale, zp, group_sums and weights. The zero point is an integer, so its dtype says nothing."""
    values = row_values(inputs, attrs, n_rows)
    w_scale = inputs["w_scale"]
    specs = {
        "scale": OutputSpec((n_rows,), torch.float32),
        "zp": OutputSpec((n_rows,), torch.float32),
        "q": OutputSpec((n_rows, int(attrs["packed_length"])), torch.int8),
        "group_sums": OutputSpec((n_rows, w_scale.shape[0]), torch.int32),
    }
    made = quantized({"x": values.float()}, attrs, specs)
    weights = {name: inputs[name] for name in ("w", "w_scale", "w_sum", "w_zp", "bias") if name in inputs}
    return Quantized(values, {**made, **weights})


def linear_outputs(found: Quantized, attrs: Attrs) -> torch.Tensor:
    """The linear's outputs [M, N], or [M, 2 N] before a gated activation, in f64."""
    width = found.slots["w_scale"].shape[1]
    spec = {"y": OutputSpec((len(found.values), width), torch.float64)}
    return linear(found.slots, {"step": attrs["step"]}, spec)["y"]


def gate(v: torch.Tensor, attrs: Attrs) -> torch.Tensor:
    """f(v[n]) * v[n + N]."""
    rows, width = v.shape
    half = width // 2
    places = {"gate_offset": 0, "gate_row_stride": width, "up_offset": half, "up_row_stride": width}
    spec = {"y": OutputSpec((rows, half), torch.float64)}
    return gated_activation({"gate": v, "up": v}, {**places, "op": attrs["op"], "row_length": half}, spec)["y"]


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x, weight, w, w_scale, optional w_sum, w_zp, bias, residual -> y [..., N] (docs/design.md, section 4)."""
    shape = outputs["y"].shape
    y = linear_outputs(quantized_input(inputs, attrs, math.prod(shape[:-1])), attrs)
    y = (gate(y, attrs) if attrs["gated"] else y).reshape(shape)
    return {"y": y + inputs["residual"].double().reshape(shape) if "residual" in inputs else y}


def tolerance(result: Result) -> torch.Tensor:
    """As the linear's, and what the codes do that may fall either way."""
    attrs = result.attrs
    found = quantized_input(result.inputs, attrs, math.prod(result.wanted.shape[:-1]))
    v = linear_outputs(found, attrs)
    flips = _flipped(result, found)
    # The row's scale is as far off as the norm's factor and itself are; it multiplies all but the bias.
    units = SCALE_UNITS
    if attrs["prologue"] != Prologue.NONE:
        units += FUNCTION_UNITS + sum_units(int(attrs["row_length"]))
    product = v if "bias" not in result.inputs else v - result.inputs["bias"].double()
    linear_result = Result(result.kernel, "y", found.slots, {"step": attrs["step"]}, v)
    bound = flips + linear_tolerance(linear_result) + in_units(units, product.abs())
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

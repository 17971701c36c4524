"""What a row is before it is quantized: x, its RMS norm, or a gated activation of it, in f64. Not a kernel."""

from __future__ import annotations

import torch

from ..kernels._generated.signatures import GateOp, Prologue
from . import Attrs, OutputSpec, Result, Tensors
from .bounds import FUNCTION_UNITS, gelu_tanh_magnitude, in_units
from .gated_activation import reference as gated_activation
from .rms_norm import reference as rms_norm
from .strides import rows

PLAIN_UNITS = 4.0  # of a value against the row's scale: x is exact, the scale is not
NORM_UNITS = 10.0  # and what the factors of an element are rounded by; the norm's own factor is the whole row's


def row_values(inputs: Tensors, attrs: Attrs, n_rows: int) -> torch.Tensor:
    """x, weight, up, by attribute prologue -> [rows, row_length]: exact for x alone, otherwise not rounded."""
    length, prologue = int(attrs["row_length"]), int(attrs["prologue"])
    attrs = {"x_inner_rows": 1, "x_outer_stride": length, "x_inner_stride": 0, **attrs}  # without them, dense
    spec = {"y": OutputSpec((n_rows, length), torch.float64)}
    if prologue == Prologue.GATED:
        places = {
            "gate_offset": attrs["x_offset"],
            "gate_row_stride": attrs["x_outer_stride"],
            "up_offset": attrs["up_offset"],
            "up_row_stride": attrs["up_row_stride"],
        }
        assert attrs["x_inner_rows"] == 1, "rows of a gated activation lie in one level"
        operands = {"gate": inputs["x"], "up": inputs["up"]}
        return gated_activation(operands, {**places, "op": attrs["op"], "row_length": length}, spec)["y"]
    if prologue == Prologue.NONE:
        return rows(inputs["x"], attrs, n_rows).double()
    slots = {"x": inputs["x"]}
    if prologue == Prologue.WEIGHTED_NORM:
        slots["weight"] = inputs["weight"]
    return rms_norm(slots, {**attrs, "eps": attrs["norm_eps"]}, spec)["y"]


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

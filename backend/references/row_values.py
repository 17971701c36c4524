"""What a row is before it is quantized: x, its RMS norm, or a gated activation of it, in f64. Not a kernel."""

from __future__ import annotations

import torch

from ..opcodes import Prologue
from . import Attrs, OutputSpec, Tensors
from .gated_activation import reference as gated_activation
from .rms_norm import reference as rms_norm
from .strides import rows


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

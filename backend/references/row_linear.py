"""A row through RMS norm, quantization, a linear, and a gated activation or a residual. Not a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from . import Attrs, Outputs, OutputSpec, Tensors
from .gated_activation import reference as gated_activation
from .linear_dq8ca_q4gsw import reference as linear
from .quantize_rows import quantized
from .row_values import row_values


@dataclass(frozen=True, slots=True)
class Quantized:
    """The values of the rows [M, K], f64, and what the linear reads: its slots by name."""

    values: torch.Tensor
    slots: dict[str, torch.Tensor]


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
    """x, weight, w, w_scale, w_sum, optional w_zp, bias, residual -> y [..., N] (docs/design.md, section 4)."""
    shape = outputs["y"].shape
    y = linear_outputs(quantized_input(inputs, attrs, math.prod(shape[:-1])), attrs)
    y = (gate(y, attrs) if attrs["gated"] else y).reshape(shape)
    return {"y": y + inputs["residual"].double().reshape(shape) if "residual" in inputs else y}

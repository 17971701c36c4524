"""f(gate) * up, in f64."""

from __future__ import annotations

import math

import torch

from ..kernels._generated.signatures import GateOp
from . import Attrs, Outputs, Result, Tensors
from .activations import gelu, gelu_tanh
from .bounds import FUNCTION_UNITS, STORE_ABSOLUTE, gelu_tanh_magnitude, in_units


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """gate and up, rows of row_length at an offset and a row stride -> y, dense; attr op."""
    shape, length = outputs["y"].shape, int(attrs["row_length"])
    row = torch.arange(math.prod(shape) // length).unsqueeze(1)

    def operand(slot: str) -> torch.Tensor:
        start = int(attrs[f"{slot}_offset"]) + row * int(attrs[f"{slot}_row_stride"])
        return inputs[slot].flatten()[start + torch.arange(length)].double()

    gate = operand("gate")
    match GateOp(int(attrs["op"])):
        case GateOp.SILU:
            gate = torch.nn.functional.silu(gate)
        case GateOp.GELU:
            gate = gelu(gate)
        case GateOp.GELU_TANH:
            gate = gelu_tanh(gate)
        case GateOp.RELU:
            gate = torch.relu(gate)
        case GateOp.SIGMOID:
            gate = torch.sigmoid(gate)
    return {"y": (gate * operand("up")).reshape(shape)}


def tolerance(result: Result) -> torch.Tensor:
    """The activation, a float, may be flushed to 0 before it is multiplied."""
    length = int(result.attrs["row_length"])
    row = torch.arange(result.wanted.numel() // length).unsqueeze(1)

    def operand(slot: str) -> torch.Tensor:
        start = int(result.attrs[f"{slot}_offset"]) + row * int(result.attrs[f"{slot}_row_stride"])
        return result.inputs[slot].flatten()[start + torch.arange(length)].double()

    up = operand("up").abs().reshape(result.wanted.shape)
    flushed = (STORE_ABSOLUTE[torch.float32] * up).nan_to_num(0.0, 0.0, 0.0)
    magnitude = result.wanted.double().abs()
    if GateOp(int(result.attrs["op"])) is GateOp.GELU_TANH:
        magnitude = gelu_tanh_magnitude(operand("gate")).reshape(up.shape) * up
    return in_units(FUNCTION_UNITS + 2, magnitude) + flushed

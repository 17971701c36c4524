"""f(gate) * up, in f64."""

from __future__ import annotations

import math

import torch

from ..opcodes import GateOp
from . import Attrs, Outputs, Tensors


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
            gate = 0.5 * gate * torch.special.erfc(-gate * 0.5**0.5)
        case GateOp.GELU_TANH:
            gate = torch.nn.functional.gelu(gate, approximate="tanh")
        case GateOp.RELU:
            gate = torch.relu(gate)
        case GateOp.SIGMOID:
            gate = torch.sigmoid(gate)
    return {"y": (gate * operand("up")).reshape(shape)}

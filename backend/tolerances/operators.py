"""Bounds of the kernels of single operators."""

from __future__ import annotations

import math

import torch

from ..opcodes import BinaryOp, GateOp, ReduceOp, UnaryOp
from ..references.strides import rows, view
from .units import (
    DIVISION_UNITS,
    FUNCTION_UNITS,
    POWER_UNITS,
    ROUNDED_ONCE_UNITS,
    STORE_ABSOLUTE,
    Bound,
    Result,
    gelu_tanh_magnitude,
    in_units,
    sum_units,
)

EXACT_UNARY = frozenset({UnaryOp.NEG, UnaryOp.ABS, UnaryOp.RELU, UnaryOp.FLOOR, UnaryOp.CEIL, UnaryOp.ROUND,
                         UnaryOp.TRUNC, UnaryOp.CLAMP, UnaryOp.CLAMP_MIN, UnaryOp.CLAMP_MAX})  # fmt: skip
ROUNDED_ONCE_UNARY = frozenset({UnaryOp.ADD_SCALAR, UnaryOp.MUL_SCALAR, UnaryOp.RSUB_SCALAR, UnaryOp.SQUARE,
                                UnaryOp.LEAKY_RELU})  # fmt: skip
BINARY_UNITS = {
    BinaryOp.MUL: ROUNDED_ONCE_UNITS,
    BinaryOp.DIV: DIVISION_UNITS,
    BinaryOp.POW: POWER_UNITS,
    BinaryOp.MINIMUM: 0.0,
    BinaryOp.MAXIMUM: 0.0,
}


def rounded(units: float) -> Bound:
    """A result that is right within `units` of itself. Integers are equal."""

    def bound(result: Result) -> torch.Tensor:
        return in_units(units if result.wanted.is_floating_point() else 0.0, result.wanted.abs())

    return bound


def unary_units(op: UnaryOp) -> float:
    """Of elementwise_unary."""
    if op in EXACT_UNARY:
        return 0.0
    if op in ROUNDED_ONCE_UNARY:
        return ROUNDED_ONCE_UNITS
    return POWER_UNITS if op in (UnaryOp.POW_SCALAR, UnaryOp.RPOW_SCALAR) else FUNCTION_UNITS


def unary(result: Result) -> torch.Tensor:
    """elementwise_unary."""
    op = UnaryOp(int(result.attrs["op"]))
    own = result.wanted.abs()
    magnitude = gelu_tanh_magnitude(result.inputs["x"]).reshape(own.shape) if op is UnaryOp.GELU_TANH else own
    return in_units(unary_units(op), magnitude)


def binary(result: Result) -> torch.Tensor:
    """elementwise_binary."""
    op = BinaryOp(int(result.attrs["op"]))
    if op not in (BinaryOp.ADD, BinaryOp.SUB) or not result.wanted.is_floating_point():
        return rounded(BINARY_UNITS.get(op, 0.0))(result)
    a, b = (view(result.inputs[slot], result.attrs, slot).double().abs() for slot in ("a", "b"))
    return in_units(2.0, (a + abs(float(result.attrs["alpha"])) * b).reshape(result.wanted.shape))


def gated(result: Result) -> torch.Tensor:
    """gated_activation. The activation, a float, may be flushed to 0 before it is multiplied."""
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


def reduction(result: Result) -> torch.Tensor:
    """reduce_rows."""
    if not result.wanted.is_floating_point() or ReduceOp(int(result.attrs["op"])) in (ReduceOp.AMAX, ReduceOp.AMIN):
        return torch.zeros(())
    return in_units(sum_units(int(result.attrs["row_length"])), result.again(result.sizes("x")))


def running_sum(result: Result) -> torch.Tensor:
    """cumsum_rows."""
    if not result.wanted.is_floating_point():
        return torch.zeros(())
    return in_units(sum_units(int(result.attrs["row_length"])), result.again(result.sizes("x")))


def softmax(result: Result) -> torch.Tensor:
    """softmax_rows: a rounded x - max moves the exponent by as much as max is rounded; the log adds the sum's error."""
    length = int(result.attrs["row_length"])
    x = rows(result.inputs["x"], result.attrs, result.wanted.numel() // length).double().nan_to_num(0.0, 0.0, 0.0)
    span = (x.abs().amax(-1, keepdim=True) + x.abs()).reshape(result.wanted.shape)
    magnitude = 1 + span + math.log(length) if result.attrs["logarithm"] else result.wanted.abs() * (1 + span)
    return in_units(FUNCTION_UNITS + sum_units(length), magnitude)


def rms_norm(result: Result) -> torch.Tensor:
    """rms_norm."""
    attrs = {**result.attrs, "weight_offset": abs(float(result.attrs["weight_offset"]))}
    magnitude = result.again(result.sizes("x", "weight"), attrs)
    return in_units(FUNCTION_UNITS + sum_units(int(result.attrs["row_length"])), magnitude)


def layer_norm(result: Result) -> torch.Tensor:
    """layer_norm: the mean is rounded, so an element is off by the row's size against its deviation."""
    length = int(result.attrs["row_length"])
    x = rows(result.inputs["x"], result.attrs, result.wanted.numel() // length).double()
    deviation = torch.sqrt(x.var(-1, correction=0, keepdim=True) + float(result.attrs["eps"]))
    magnitude = (x.abs() + x.abs().mean(-1, keepdim=True)) / deviation
    factors = result.sizes("weight", "bias")
    if "weight" in factors:
        magnitude = magnitude * factors["weight"].double().flatten()
    if "bias" in factors:
        magnitude = magnitude + factors["bias"].double().flatten()
    return in_units(FUNCTION_UNITS + sum_units(length), magnitude.reshape(result.wanted.shape))


def matmul(result: Result) -> torch.Tensor:
    """matmul."""
    return in_units(sum_units(int(result.attrs["k"])), result.again(result.sizes("a", "b", "bias")))

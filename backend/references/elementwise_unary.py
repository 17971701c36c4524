"""One function of each element, in f64."""

from __future__ import annotations

import torch

from ..kernels._generated.signatures import UnaryOp
from . import Attrs, Outputs, Result, Tensors
from .activations import gelu, gelu_tanh
from .bounds import FUNCTION_UNITS, POWER_UNITS, ROUNDED_ONCE_UNITS, gelu_tanh_magnitude, in_units

_EXACT = frozenset({UnaryOp.NEG, UnaryOp.ABS, UnaryOp.RELU, UnaryOp.FLOOR, UnaryOp.CEIL, UnaryOp.ROUND,
                         UnaryOp.TRUNC, UnaryOp.CLAMP, UnaryOp.CLAMP_MIN, UnaryOp.CLAMP_MAX})  # fmt: skip
_ROUNDED_ONCE = frozenset({UnaryOp.ADD_SCALAR, UnaryOp.MUL_SCALAR, UnaryOp.RSUB_SCALAR, UnaryOp.SQUARE,
                                UnaryOp.LEAKY_RELU})  # fmt: skip


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x [...] -> y [...]; attrs op, alpha, beta (f32)."""
    op = UnaryOp(int(attrs["op"]))
    alpha, beta = (torch.tensor(attrs[name], dtype=torch.float32).double() for name in ("alpha", "beta"))
    y = _apply(op, inputs["x"].double(), alpha, beta)
    return {"y": y.reshape(outputs["y"].shape)}


def _apply(op: UnaryOp, x: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    match op:
        case UnaryOp.CLAMP:
            return torch.clamp(x, alpha, beta)
        case UnaryOp.CLAMP_MIN:
            return torch.clamp(x, min=alpha)
        case UnaryOp.CLAMP_MAX:
            return torch.clamp(x, max=alpha)
        case UnaryOp.ADD_SCALAR:
            return x + alpha
        case UnaryOp.MUL_SCALAR:
            return x * alpha
        case UnaryOp.DIV_SCALAR:
            return x / alpha
        case UnaryOp.RSUB_SCALAR:
            return alpha - x
        case UnaryOp.RDIV_SCALAR:
            return alpha / x
        case UnaryOp.POW_SCALAR:
            return torch.pow(x, alpha)
        case UnaryOp.RPOW_SCALAR:
            return torch.pow(alpha, x)
        case UnaryOp.LEAKY_RELU:
            return torch.where(x < 0, alpha * x, x)
        case UnaryOp.GELU:
            return gelu(x)
        case UnaryOp.GELU_TANH:
            return gelu_tanh(x)
        case UnaryOp.SILU:
            return torch.nn.functional.silu(x)
        case _:
            function: torch.Tensor = getattr(torch, op.name.lower())(x)
            return function


def tolerance(result: Result) -> torch.Tensor:
    op = UnaryOp(int(result.attrs["op"]))
    own = result.wanted.abs()
    magnitude = gelu_tanh_magnitude(result.inputs["x"]).reshape(own.shape) if op is UnaryOp.GELU_TANH else own
    return in_units(_units(op), magnitude)


def _units(op: UnaryOp) -> float:
    if op in _EXACT:
        return 0.0
    if op in _ROUNDED_ONCE:
        return ROUNDED_ONCE_UNITS
    return POWER_UNITS if op in (UnaryOp.POW_SCALAR, UnaryOp.RPOW_SCALAR) else FUNCTION_UNITS

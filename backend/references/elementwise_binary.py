"""One function of two elements, in f64 or in 32-bit integers."""

from __future__ import annotations

import torch

from ..kernels._generated.signatures import BinaryOp
from . import Attrs, Outputs, Result, Tensors
from .bounds import DIVISION_UNITS, POWER_UNITS, ROUNDED_ONCE_UNITS, in_units, rounded
from .strides import view

_UNITS = {
    BinaryOp.MUL: ROUNDED_ONCE_UNITS,
    BinaryOp.DIV: DIVISION_UNITS,
    BinaryOp.POW: POWER_UNITS,
    BinaryOp.MINIMUM: 0.0,
    BinaryOp.MAXIMUM: 0.0,
}


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Strided views a, b -> y, dense over size0..3; attrs op, alpha (add and sub)."""
    op = BinaryOp(int(attrs["op"]))
    a, b = view(inputs["a"], attrs, "a"), view(inputs["b"], attrs, "b")
    if outputs["y"].dtype == torch.int32:
        y = _integers(op, a.long(), b.long(), int(attrs["alpha"])).to(torch.int32)
    else:
        alpha = float(torch.tensor(attrs["alpha"], dtype=torch.float32))
        y = _floats(op, a.double(), b.double(), alpha)
    return {"y": y.reshape(outputs["y"].shape)}


def _floats(op: BinaryOp, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    match op:
        case BinaryOp.ADD:
            return a + alpha * b
        case BinaryOp.SUB:
            return a - alpha * b
        case BinaryOp.MUL | BinaryOp.DIV | BinaryOp.MINIMUM | BinaryOp.MAXIMUM | BinaryOp.POW:
            result: torch.Tensor = getattr(torch, op.name.lower())(a, b)
            return result
        case BinaryOp.TRUNC_DIVIDE:
            return torch.trunc(a.float() / b.float()).double()
        case _:
            return torch.full_like(a, torch.nan)


def _integers(op: BinaryOp, a: torch.Tensor, b: torch.Tensor, alpha: int) -> torch.Tensor:
    safe = torch.where(b == 0, 1, b)
    match op:
        case BinaryOp.ADD:
            return a + alpha * b
        case BinaryOp.SUB:
            return a - alpha * b
        case BinaryOp.FLOOR_DIVIDE:
            return torch.where(b == 0, 0, torch.div(a, safe, rounding_mode="floor"))
        case BinaryOp.TRUNC_DIVIDE:
            return torch.where(b == 0, 0, torch.div(a, safe, rounding_mode="trunc"))
        case BinaryOp.REMAINDER:
            return torch.where(b == 0, a, torch.remainder(a, safe))
        case BinaryOp.DIV | BinaryOp.POW:
            return torch.zeros_like(a)
        case _:
            result: torch.Tensor = getattr(torch, op.name.lower())(a, b)
            return result


def tolerance(result: Result) -> torch.Tensor:
    op = BinaryOp(int(result.attrs["op"]))
    if op not in (BinaryOp.ADD, BinaryOp.SUB) or not result.wanted.is_floating_point():
        return rounded(_UNITS.get(op, 0.0))(result)
    a, b = (view(result.inputs[slot], result.attrs, slot).double().abs() for slot in ("a", "b"))
    return in_units(2.0, (a + abs(float(result.attrs["alpha"])) * b).reshape(result.wanted.shape))

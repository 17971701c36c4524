"""Batched matrix product of two strided views, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import in_units, sum_units
from .strides import places


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """a [batch0, batch1, m, k], b [batch0, batch1, k, n], optional bias [n] -> y, dense [batch0, batch1, m, n]."""
    a = _operand(inputs["a"], attrs, "a", ("m", "k"))
    b = _operand(inputs["b"], attrs, "b", ("k", "n"))
    y = a @ b
    if "bias" in inputs:
        y = y + inputs["bias"].double()
    return {"y": y.reshape(outputs["y"].shape)}


def _operand(x: torch.Tensor, attrs: Attrs, slot: str, axes: tuple[str, str]) -> torch.Tensor:
    shape = tuple(int(attrs[name]) for name in ("batch0", "batch1", *axes))
    names = (f"{slot}_batch_stride0", f"{slot}_batch_stride1", *(f"{slot}_stride_{axis}" for axis in axes))
    strides = {f"{slot}_stride{axis}": attrs[name] for axis, name in enumerate(names)}
    at = places({**strides, f"{slot}_offset": attrs[f"{slot}_offset"]}, slot, shape)
    return x.flatten()[at].double()


def tolerance(result: Result) -> torch.Tensor:
    return in_units(sum_units(int(result.attrs["k"])), result.again(result.sizes("a", "b", "bias")))

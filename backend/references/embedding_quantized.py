"""Rows of a group-wise quantized table by their ids, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import ROUNDED_ONCE_UNITS, rounded
from .embedding import pick_rows, written


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """ids [...], table, scale [V, groups], optional w_zp [V, groups] -> y [..., D]."""
    table = inputs["table"]
    codes = table if table.dtype == torch.int8 else unpack_nibbles(table)
    values = dequantize(codes, inputs, attrs)
    return {"y": pick_rows(values, inputs["ids"], attrs).reshape(outputs["y"].shape)}


def unpack_nibbles(table: torch.Tensor) -> torch.Tensor:
    """Bytes [V, D / 2] of two's complement nibbles, the lower one first -> int8 [V, D]."""
    packed = table.view(torch.uint8).to(torch.int16)
    nibbles = torch.stack((packed & 15, packed >> 4), -1).reshape(len(table), -1)
    return torch.where(nibbles > 7, nibbles - 16, nibbles).to(torch.int8)


def dequantize(codes: torch.Tensor, inputs: Tensors, attrs: Attrs) -> torch.Tensor:
    """int8 [V, at least row_length] -> f64 [V, row_length]."""
    length = int(attrs["row_length"])
    group = torch.arange(length) // int(attrs["group_size"])
    table = codes[:, :length].double()
    if "w_zp" in inputs:
        table = table - inputs["w_zp"].double()[:, group]
    return table * inputs["scale"].double()[:, group]


tolerance = rounded(ROUNDED_ONCE_UNITS)
__all__ = ["reference", "tolerance", "written"]

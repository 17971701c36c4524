"""Rows of a group-wise quantized int8 table by their ids, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .embedding import pick_rows, written


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """ids [...], table, scale [V, groups], optional w_zp [V, groups] -> y [..., D]."""
    codes = inputs["table"]
    table = dequantize(codes, inputs, attrs)
    return {"y": pick_rows(table, inputs["ids"], attrs).reshape(outputs["y"].shape)}


def dequantize(codes: torch.Tensor, inputs: Tensors, attrs: Attrs) -> torch.Tensor:
    """int8 [V, at least row_length] -> f64 [V, row_length]."""
    length = int(attrs["row_length"])
    group = torch.arange(length) // int(attrs["group_size"])
    table = codes[:, :length].double()
    if "w_zp" in inputs:
        table = table - inputs["w_zp"].double()[:, group]
    return table * inputs["scale"].double()[:, group]


__all__ = ["reference", "written"]

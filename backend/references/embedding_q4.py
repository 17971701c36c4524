"""Rows of a group-wise quantized int4 table by their ids, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .embedding import pick_rows, written
from .embedding_q8 import dequantize


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """ids [...], table, scale [V, groups], optional w_zp [V, groups] -> y [..., D]."""
    codes = unpack_nibbles(inputs["table"])
    table = dequantize(codes, inputs, attrs)
    return {"y": pick_rows(table, inputs["ids"], attrs).reshape(outputs["y"].shape)}


def unpack_nibbles(table: torch.Tensor) -> torch.Tensor:
    """Bytes [V, D / 2] of two's complement nibbles, the lower one first -> int8 [V, D]."""
    packed = table.view(torch.uint8).to(torch.int16)
    nibbles = torch.stack((packed & 15, packed >> 4), -1).reshape(len(table), -1)
    return torch.where(nibbles > 7, nibbles - 16, nibbles).to(torch.int8)


__all__ = ["reference", "written"]

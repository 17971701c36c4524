"""Rows, by their ids, of a group-wise quantized table that is packed as a linear's weight, in f64."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import ROUNDED_ONCE_UNITS, rounded
from .embedding import pick_rows, written
from .packing import scaled_weights, source_positions, unpack_weight


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """ids [...], w, w_scale and optional w_zp of V rows (section 4 of docs/design.md) -> y [..., D]."""
    step, steps = int(attrs["step"]), inputs["w_scale"].shape[0]
    codes = unpack_weight(inputs["w"])[:, : steps * step].double().reshape(-1, steps, step)
    position = source_positions(
        int(attrs["row_length"]),
        steps * step,
        group_size=int(attrs["group_size"]),
        group_padded=int(attrs["group_padded"]),
    )
    table = scaled_weights(codes, inputs).flatten(1)[:, position >= 0]
    return {"y": pick_rows(table, inputs["ids"], attrs).reshape(outputs["y"].shape)}


tolerance = rounded(ROUNDED_ONCE_UNITS)
__all__ = ["reference", "tolerance", "written"]

"""Rotary position embedding in f64. Sources: the pairings of Llama's and of Hugging Face's code."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Result, Tensors
from .bounds import in_units
from .heads import join_heads, split_heads, token_positions

ROTARY_UNITS = 6.0


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """x, cos_table, sin_table, position -> y."""
    x = split_heads(
        inputs["x"],
        layout=int(attrs["x_layout"]),
        heads=int(attrs["heads"]),
        head_dim=int(attrs["head_dim"]),
        first=int(attrs["x_first"]),
    )
    y = rotate(x, inputs, attrs)
    return {"y": join_heads(y, outputs["y"].shape, layout=int(attrs["y_layout"]))}


def rotate(x: torch.Tensor, inputs: Tensors, attrs: Attrs) -> torch.Tensor:
    """x [B, H, S, D] f64 with the first rotary_dim elements of every head turned."""
    batch, _, tokens, _ = x.shape
    width = int(attrs["rotary_dim"])
    rows = _table_rows(inputs, attrs, batch=batch, tokens=tokens)
    cos, sin = (_angles(inputs[slot], rows, attrs).unsqueeze(1) for slot in ("cos_table", "sin_table"))
    head, tail = x[..., :width], x[..., width:]
    if attrs["interleaved"]:
        turned = torch.stack([-head[..., 1::2], head[..., 0::2]], -1).flatten(-2)
    else:
        turned = torch.cat([-head[..., width // 2 :], head[..., : width // 2]], -1)
    return torch.cat([head * cos + turned * sin, tail], -1)


def _table_rows(inputs: Tensors, attrs: Attrs, *, batch: int, tokens: int) -> torch.Tensor:
    count = inputs["cos_table"].numel() // inputs["cos_table"].shape[-1]
    if attrs["table_rows"] == 0:
        rows = token_positions(inputs["position"], attrs, batch=batch, tokens=tokens)
        rows = torch.where(rows < 0, rows + count, rows)
    else:
        step = tokens if attrs["table_rows"] == 2 else 0
        rows = torch.arange(batch).reshape(-1, 1) * step + torch.arange(tokens)
    return rows.clamp(0, count - 1)


def _angles(table: torch.Tensor, rows: torch.Tensor, attrs: Attrs) -> torch.Tensor:
    """[B, S, rotary_dim], one value an element."""
    width = int(attrs["rotary_dim"])
    found = table.reshape(-1, table.shape[-1]).double()[rows]
    if found.shape[-1] == width:
        return found
    return found.repeat_interleave(2, -1) if attrs["interleaved"] else torch.cat([found, found], -1)


def tolerance(result: Result) -> torch.Tensor:
    return in_units(ROTARY_UNITS, turned_sizes(result))


def turned_sizes(result: Result) -> torch.Tensor:
    """|x cos| + |x' sin|."""
    sizes = result.sizes("x", "q", "k", "q_norm", "k_norm", "cos_table", "sin_table")
    by_cos = result.again({**sizes, "sin_table": torch.zeros_like(result.inputs["sin_table"])})
    by_sin = result.again({**sizes, "cos_table": torch.zeros_like(result.inputs["cos_table"])})
    return by_cos.abs() + by_sin.abs()

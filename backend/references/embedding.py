"""Rows of a table by their ids."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors
from .bounds import exact


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """ids [...], table [V, D] -> y [..., D]; the nearest row for an id outside."""
    return {"y": pick_rows(inputs["table"].double(), inputs["ids"], attrs).reshape(outputs["y"].shape)}


def written(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Which elements of y the call writes: the rows whose ids this table holds; of a vocabulary's first table, all."""
    at = local_rows(inputs["ids"], attrs)
    count = len(inputs["table"]) if "table" in inputs else inputs["w_scale"].shape[1]
    inside = (at >= 0) & (at < count) | (attrs["first_row"] == 0)
    return {"y": inside.unsqueeze(-1).expand(len(inside), outputs["y"].shape[-1]).reshape(outputs["y"].shape)}


def local_rows(ids: torch.Tensor, attrs: Attrs) -> torch.Tensor:
    """Rows of this table for the ids; for others, outside it."""
    return ids.flatten().long() - int(attrs["first_row"])


def pick_rows(table: torch.Tensor, ids: torch.Tensor, attrs: Attrs) -> torch.Tensor:
    """[ids, D], the nearest row for ids of other tables."""
    return table[local_rows(ids, attrs).clamp(0, len(table) - 1)]


tolerance = exact

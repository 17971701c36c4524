"""Rows of a table by their ids."""

from __future__ import annotations

import torch

from . import Attrs, Outputs, Tensors


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """ids [...], table [V, D] -> y [..., D]; zero where the call writes nothing."""
    return {"y": pick_rows(inputs["table"].double(), inputs["ids"], attrs).reshape(outputs["y"].shape)}


def written(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Which elements of y the call writes: the rows whose ids this table holds."""
    inside = local_rows(inputs["ids"], attrs, len(inputs["table"]))[1]
    return {"y": inside.unsqueeze(-1).expand(len(inside), outputs["y"].shape[-1]).reshape(outputs["y"].shape)}


def local_rows(ids: torch.Tensor, attrs: Attrs, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of this table for the ids, and which ids it holds."""
    at = ids.flatten().long() - int(attrs["first_row"])
    inside = (at >= 0) & (at < count)
    return torch.where(inside, at, 0), inside


def pick_rows(table: torch.Tensor, ids: torch.Tensor, attrs: Attrs) -> torch.Tensor:
    """[ids, D], zero for ids of other tables."""
    at, inside = local_rows(ids, attrs, len(table))
    return torch.where(inside.unsqueeze(-1), table[at], 0.0)

"""Heads of a token's row, and where a token goes: shared by several references. Not a kernel."""

from __future__ import annotations

import torch

from . import Attrs


def split_heads(x: torch.Tensor, *, layout: int, heads: int, head_dim: int, first: int = 0) -> torch.Tensor:
    """[B, H, S, D] of a tensor in layout 0, [B, H, S, D], or 1, [B, S, first + H * D or more]."""
    if layout == 0:
        return x.double()
    rows = x.reshape(x.shape[0], x.shape[1], -1)[..., first : first + heads * head_dim]
    return rows.reshape(*rows.shape[:2], heads, head_dim).transpose(1, 2).double()


def join_heads(y: torch.Tensor, shape: tuple[int, ...], *, layout: int) -> torch.Tensor:
    """[B, H, S, D] as an output of this layout and shape."""
    return (y if layout == 0 else y.transpose(1, 2)).reshape(shape)


def token_positions(position: torch.Tensor, attrs: Attrs, *, batch: int, tokens: int) -> torch.Tensor:
    """Absolute positions [B, S] int64 of an attribute position_mode: 0 position[0] + s, 1 [s], 2 [b] + s, 3 [b, s]."""
    flat = position.reshape(-1).long()
    steps = torch.arange(tokens)
    match int(attrs["position_mode"]):
        case 0:
            return (flat[:1] + steps).expand(batch, tokens)
        case 1:
            return flat[:tokens].expand(batch, tokens)
        case 2:
            return flat[:batch].reshape(-1, 1) + steps
        case _:
            return flat[: batch * tokens].reshape(batch, tokens)


def write_cache(cache: torch.Tensor, new: torch.Tensor, positions: torch.Tensor, *, layout: int) -> torch.Tensor:
    """The cache with new [B, H, S, ...] at positions [B, S], negative ones from its end; layout 0 is [B, H, T, ...],
    1 is [B, T, H, ...]."""
    by_head = (cache if layout == 0 else cache.transpose(1, 2)).clone()
    for b, row in enumerate(positions.tolist()):
        for s, place in enumerate(row):
            if -by_head.shape[2] <= place < by_head.shape[2]:
                by_head[b, :, place] = new[b, :, s].to(cache.dtype)
    return by_head if layout == 0 else by_head.transpose(1, 2)

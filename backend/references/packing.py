"""Reads the packed operands back into plain tensors (layouts in section 4 of docs/design.md). Not a kernel."""

from __future__ import annotations

import torch

from . import Tensors


def unpack_weight(w: torch.Tensor) -> torch.Tensor:
    """w packed -> int64 [N, Kp].

    8 bit: int8 [Kp/16, N, 16]. 4 bit: the bytes, uint8 [Kp/32, N, 16].
    """
    if w.dtype == torch.int8:
        return w.permute(1, 0, 2).reshape(w.shape[1], -1).long()
    chunks, outputs, _ = w.shape
    words = w.reshape(chunks, outputs, 4, 4).long()
    nibbles = torch.stack((words & 15, words >> 4), dim=3)
    signed = torch.where(nibbles > 7, nibbles - 16, nibbles)
    return signed.reshape(chunks, outputs, 32).permute(1, 0, 2).reshape(outputs, chunks * 32)


def sums_of_weights(slots: Tensors, step: int) -> torch.Tensor:
    """w_sum [steps, N], or, where it is not given, the sums of w over each step."""
    if "w_sum" in slots:
        return slots["w_sum"]
    steps = slots["w_scale"].shape[0]
    codes = unpack_weight(slots["w"])[:, : steps * step]
    return codes.reshape(len(codes), steps, step).sum(2).T


def scaled_weights(codes: torch.Tensor, slots: Tensors) -> torch.Tensor:
    """f64 [N, steps, step] codes -> weights, by w_scale and the optional w_zp: integers, or terms where it is float."""
    scale = slots["w_scale"].double().T.unsqueeze(-1)
    if "w_zp" not in slots:
        return codes * scale
    zero = slots["w_zp"].double().T.unsqueeze(-1)
    return codes * scale - zero if slots["w_zp"].is_floating_point() else (codes - zero) * scale


def source_positions(row_length: int, packed_length: int, *, group_size: int, group_padded: int) -> torch.Tensor:
    """For each packed position the index k it holds, or -1 in the padding; int64 [packed_length]."""
    position = torch.arange(packed_length)
    within = position % group_padded
    k = position // group_padded * group_size + within
    return torch.where((within < group_size) & (k < row_length), k, -1)

"""Strided views as the kernels take them: attributes size0.., and per slot an offset and strides in elements."""

from __future__ import annotations

import torch

from ..kernels._generated.signatures import SIGNATURES
from . import Attrs

RANK = sum(name.startswith("size") for name in SIGNATURES["strided_copy"].attr_names())


def sizes(attrs: Attrs, prefix: str = "size") -> tuple[int, ...]:
    """The four sizes that a kernel's positions run over."""
    return tuple(int(attrs[f"{prefix}{axis}"]) for axis in range(RANK))


def places(attrs: Attrs, slot: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Index into the flat tensor of `slot` for each position of `shape`."""
    at = torch.full(shape, int(attrs[f"{slot}_offset"]), dtype=torch.int64)
    for axis, size in enumerate(shape):
        steps = torch.arange(size, dtype=torch.int64) * int(attrs[f"{slot}_stride{axis}"])
        at = at + steps.reshape([-1 if other == axis else 1 for other in range(RANK)])
    return at


def view(x: torch.Tensor, attrs: Attrs, slot: str) -> torch.Tensor:
    """The elements of `slot` at each position, as a dense tensor of rank 4."""
    return x.flatten()[places(attrs, slot, sizes(attrs))]


def rows(x: torch.Tensor, attrs: Attrs, count: int) -> torch.Tensor:
    """The rows that a row kernel reads, [count, row_length]: row_length, x_offset, x_inner_rows and two strides."""
    row = torch.arange(count, dtype=torch.int64)
    inner = int(attrs["x_inner_rows"])
    start = int(attrs["x_offset"]) + row // inner * int(attrs["x_outer_stride"])
    start = start + row % inner * int(attrs["x_inner_stride"])
    return x.flatten()[start.unsqueeze(1) + torch.arange(int(attrs["row_length"]))]

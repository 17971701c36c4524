"""Numbers to compute with: specials, edges and seeded random ones; and the attributes of strided views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

SPECIALS = (
    0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 1.17549435e-38, -1.17549435e-38, 3.4e38, -3.4e38, 1.0,
    -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.55, 0.56, 2.0, -2.0, 3.0, 88.7, 88.73, 88.9, -87.3, -88.0, -103.0, -104.5, 4.0,
    4.01, -14.8, -14.9, 1.4142134, 1.4142137, 0.70710678, 0.99999994, 1.0000001, 16777216.0, 8388607.5, -8388607.5,
    2147483648.0, -2147483648.0, 3.14159274, 6.28318548, 1.57079637, 0.785398185, 11.0, 344.0, 710.0, 32768.0, 1e5,
    2.6e5, 1e10, 5.3e16, 1e22, 3e37, 65504.0, 6e-8,
)  # fmt: skip
ALL_HALVES = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.float16)


def floats(count: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Specials, then random numbers: ordinary ones, and magnitudes over the whole range of f32."""
    generator = torch.Generator().manual_seed(seed)
    ordinary = torch.randn(count, generator=generator) * 4
    wide = torch.exp2(torch.rand(count, generator=generator) * 250 - 126) * torch.where(ordinary > 0, 1.0, -1.0)
    mixed = torch.where(torch.arange(count) % 4 == 3, wide, ordinary)
    mixed[: min(count, len(SPECIALS))] = torch.tensor(SPECIALS[:count])
    return mixed.to(dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def integers(
    *shape: int, low: int = -1000, high: int = 1000, seed: int = 0, dtype: torch.dtype = torch.int32
) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bools(*shape: int, seed: int = 0) -> torch.Tensor:
    return integers(*shape, low=0, high=2, seed=seed, dtype=torch.uint8)


def base(x: torch.Tensor) -> torch.Tensor:
    """The tensor that x is a view of: what a slot holds."""
    return x if x._base is None else x._base


def size_attrs(shape: Sequence[int], prefix: str = "size") -> dict[str, int]:
    """size0..3 of a shape of rank up to 4."""
    full = (1,) * (4 - len(shape)) + tuple(shape)
    return {f"{prefix}{axis}": size for axis, size in enumerate(full)}


def view_attrs(slot: str, view: torch.Tensor) -> dict[str, int]:
    """Offset and strides of a view of rank up to 4, as torch has them; broadcasting is expand()."""
    strides = (0,) * (4 - view.ndim) + tuple(view.stride())
    return {f"{slot}_offset": int(view.storage_offset()), **{f"{slot}_stride{i}": s for i, s in enumerate(strides)}}


def dense_rows(row_length: int) -> dict[str, int]:
    """Attributes of a row kernel whose x is dense."""
    return {
        "row_length": row_length,
        "x_offset": 0,
        "x_inner_rows": 1,
        "x_outer_stride": row_length,
        "x_inner_stride": 0,
    }

"""Activation rows that quantization kernels get wrong: signs, ties, extremes, subnormals."""

from __future__ import annotations

import torch


def quantization_rows(length: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[rows, length]: random rows of many scales and offsets, then one row for each special case. All finite."""
    generator = torch.Generator().manual_seed(seed)

    def noise(scale: float = 1.0, offset: float = 0.0) -> torch.Tensor:
        return torch.randn(length, generator=generator, dtype=torch.float64) * scale + offset

    rows = [noise(scale, offset * scale) for scale in (1e-3, 0.02, 1.0, 37.0) for offset in (-3.0, -0.3, 0.0, 0.3, 3.0)]
    rows += [noise().abs() + 0.1, -noise().abs() - 0.1]  # zero points -128 and 127
    rows += [torch.full((length,), value, dtype=torch.float64) for value in (0.0, -0.0, 2.5, -2.5, 1e-4)]
    spike = noise(1e-3)
    spike[length // 2] = 3e4
    rows += [spike, -spike]
    grid = torch.arange(length, dtype=torch.float64) % 256
    rows += [(grid - 128) / 8, (grid - 200) * 0.5, grid / 2]  # many exact ties
    tiny = float(torch.finfo(dtype).smallest_normal)
    ramp = (torch.arange(length, dtype=torch.float64) % 17 - 8) / 8
    rows += [ramp * tiny, ramp * tiny * 0.5, ramp * tiny * 3, ramp * tiny * 100, ramp.abs() * tiny]
    if dtype == torch.float32:
        rows += [ramp * 1e34, ramp * 1e-30]
    return torch.stack(rows).to(dtype)


def non_finite_rows(length: int) -> torch.Tensor:
    """[4, length] f32: a NaN, an infinity, a range that overflows, and an ordinary row after them."""
    rows = torch.linspace(-1.0, 1.0, length).repeat(4, 1)
    rows[0, length // 3] = torch.nan
    rows[1, length // 2] = torch.inf
    rows[2, 0], rows[2, -1] = -3e38, 3e38
    return rows

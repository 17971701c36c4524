"""A quantized matrix as constants w, w_scale and w_zp, which linears and embeddings read (docs/design.md, section 4).

The two share this so that equal integers are equal bytes: a table that is the last linear, too, is stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...kernels.dtypes import DType
from ...lowering.lowering import Lowering
from ...lowering.packing import Layout, pack_scales, pack_weight, pack_zeros
from ...lowering.tables import row_pieces

Values = Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Packing:
    """A constant's dtype and dimensions, and what makes its array."""

    dtype: DType
    dims: tuple[int, ...]
    pack: Callable[[], npt.NDArray[np.generic]]

    def declare(self, name: str, key: Hashable, lowering: Lowering) -> int:
        """The constant, made at the first request under this key."""

        def make() -> tuple[int, ...]:
            return (lowering.builder.constant(name, self.dtype, self.dims, data=self.pack),)

        return lowering.once(key, make)[0]


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """codes int8 [N, K], scales [N, groups] and, where some are not 0, zeros [N, groups]. half: w_scale is f16."""

    layout: Layout
    bits: int
    codes: Values
    scales: Values
    zeros: Values | None
    half: bool

    def pieces(
        self, name: str, n_rows: int, lowering: Lowering, *, unit: str = "row", least: int = 0
    ) -> tuple[tuple[int, int], ...]:
        """Ranges of rows that fit into a binding. least: bytes a row takes elsewhere."""
        row_bytes = max(self.layout.packed_length * self.bits // 8, self.layout.steps * 4, least)
        return row_pieces(name, n_rows, row_bytes, lowering, unit=unit)

    def constants(self, rows: slice) -> dict[str, Packing]:
        """Of some rows, by slot."""
        layout, count, chunk = self.layout, rows.stop - rows.start, 128 // self.bits
        scale_dtype = torch.float16 if self.half else torch.float32
        steps = (layout.steps, count)
        found = {
            "w": Packing(
                DType(f"i{self.bits}"),
                (layout.packed_length // chunk, count, chunk),
                lambda: pack_weight(rows_of(self.codes, rows, torch.int8), layout, bits=self.bits),
            ),
            "w_scale": Packing(
                DType.F16 if self.half else DType.F32,
                steps,
                lambda: pack_scales(rows_of(self.scales, rows, scale_dtype), layout),
            ),
        }
        zeros = self.zeros
        if zeros is not None:
            found["w_zp"] = Packing(DType.I32, steps, lambda: pack_zeros(rows_of(zeros, rows, torch.int32), layout))
        return found


def rows_of(values: Values, rows: slice, dtype: torch.dtype) -> npt.NDArray[Any]:
    """Some rows, in a dtype."""
    found: npt.NDArray[Any] = values()[rows].to(dtype).contiguous().numpy()
    return found

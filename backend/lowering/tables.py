"""Constants [rows, length] that are larger than a binding: cut into pieces of rows, which all their users share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ..errors import Unsupported
from ..kernels.dtypes import DType
from ..program import Dim
from .graph import Constant
from .lowering import Lowering

_ALIGN = 32  # rows of a piece, where there are so many
_TORCH = {DType.F32: torch.float32, DType.F16: torch.float16}


def row_pieces(
    name: str, count: int, row_bytes: int, lowering: Lowering, *, unit: str = "row"
) -> tuple[tuple[int, int], ...]:
    """Ranges of rows, even and as few as max_binding_bytes allows. row_bytes: of a row of the largest tensor."""
    limit = lowering.options.max_binding_bytes // 16 * 16
    widest = min(limit // row_bytes, count)
    if widest == 0:
        raise Unsupported(f"{name}: one {unit} takes {row_bytes} bytes; max_binding_bytes {limit}; raise it")
    pieces = -(-count // widest)
    width = -(-count // pieces)
    aligned = -(-width // _ALIGN) * _ALIGN
    width = aligned if aligned <= widest else width
    return tuple((start, min(start + width, count)) for start in range(0, count, width))


def column_bytes(dtype: DType, lead: Sequence[Dim], lowering: Lowering) -> int:
    """Bytes of a column of [lead..., n], when there are many: a tensor's own are rounded up."""
    return -(-lowering.builder.size_bytes(dtype, (*lead, _ALIGN)) // _ALIGN)


def table_rows(constant: Constant, dtype: DType, rows: tuple[int, int], axis: int, lowering: Lowering) -> int:
    """Rows of a float constant of two dimensions, or with axis 1 its columns."""
    start, stop = rows

    def data() -> npt.NDArray[np.generic]:
        part = constant.array().narrow(axis, start, stop - start)
        array: npt.NDArray[np.generic] = part.to(_TORCH[dtype]).contiguous().numpy()
        return array

    dims = [stop - start, constant.shape[1]] if axis == 0 else [constant.shape[0], stop - start]
    key = ("rows", constant.name, dtype, rows, axis)
    return lowering.once(key, lambda: (lowering.builder.constant(constant.name, dtype, dims, data=data),))[0]

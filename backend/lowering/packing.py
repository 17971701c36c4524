"""Packs the operands of a quantized linear into the layout of docs/design.md section 4. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

STEPS = (8, 16, 32, 64, 96, 128)
_STEP_COST = 8  # a step costs a kernel about as much as this many elements
_CHUNK = 32

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
_Scalar = TypeVar("_Scalar", bound=np.generic)
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one row of K inputs lies in packed memory. step = Gs, group_padded = Gp, packed_length = Kp."""

    row_length: int
    group_size: int
    group_padded: int
    step: int

    @classmethod
    def of(cls, row_length: int, group_size: int, *, padded: bool = True) -> Layout:
        """The layout of K = row_length inputs in groups; group_size divides row_length.

        The step is the one that makes padding plus steps cheapest; of equal ones the one with the least padding. padded
        False: only steps that leave no padding inside groups, so that 8 must divide group_size.
        """

        def cost(step: int) -> tuple[int, int]:
            count = -(-group_size // step)
            return count * (step + _STEP_COST), count * step

        step = min((step for step in STEPS if padded or group_size % step == 0), key=cost)
        return cls(row_length, group_size, -(-group_size // step) * step, step)

    @property
    def groups(self) -> int:
        return self.row_length // self.group_size

    @property
    def steps(self) -> int:
        """Steps in a row."""
        return self.groups * (self.group_padded // self.step)

    @property
    def packed_length(self) -> int:
        """steps * step rounded up to 32."""
        return -(-self.groups * self.group_padded // _CHUNK) * _CHUNK


def pack_weight(codes: Int8, layout: Layout, *, bits: int) -> npt.NDArray[np.int8] | npt.NDArray[np.uint8]:
    """codes [N, K] -> the bytes of w: uint8 [Kp/32, N, 16] for 4 bits, int8 [Kp/16, N, 16] for 8."""
    padded = _pad(codes, layout)
    n_rows = codes.shape[0]
    if bits == 8:
        return np.ascontiguousarray(padded.reshape(n_rows, -1, 16).transpose(1, 0, 2))
    nibbles = padded.view(np.uint8).reshape(n_rows, -1, 4, 2, 4)
    packed = (nibbles[:, :, :, 0] & 15) | (nibbles[:, :, :, 1] << 4)
    return np.ascontiguousarray(packed.reshape(n_rows, -1, 16).transpose(1, 0, 2))


def unpack_weight(packed: npt.NDArray[np.int8] | npt.NDArray[np.uint8], layout: Layout, *, bits: int) -> Int8:
    """The inverse of pack_weight: codes [N, K]."""
    rows = packed.transpose(1, 0, 2)
    n_rows = rows.shape[0]
    if bits == 4:
        words = rows.reshape(n_rows, -1, 4, 1, 4)
        nibbles = np.concatenate((words & 15, words >> 4), axis=3).astype(np.int8)
        rows = np.where(nibbles > 7, nibbles - 16, nibbles)
    flat = rows.reshape(n_rows, -1)[:, : layout.groups * layout.group_padded].astype(np.int8)
    groups = flat.reshape(n_rows, layout.groups, layout.group_padded)[:, :, : layout.group_size]
    return np.ascontiguousarray(groups.reshape(n_rows, layout.row_length))


def pack_scales(scales: Floats, layout: Layout) -> Floats:
    """scales [N, K/G] -> w_scale [steps, N], in the dtype given."""
    return np.ascontiguousarray(_per_step(scales, layout), dtype=scales.dtype)


def pack_terms(terms: Floats, layout: Layout) -> Floats:
    """Float zero terms [N, K/G] -> w_zp [steps, N]; the layout has no padding inside groups."""
    assert layout.group_padded == layout.group_size
    return pack_scales(terms, layout)


def pack_zeros(zeros: Int32, layout: Layout) -> Int32:
    """zeros [N, K/G] -> w_zp [steps, N]."""
    return np.ascontiguousarray(_per_step(zeros, layout).astype(np.int32))


def pack_sums(codes: Int8, zeros: Int32, layout: Layout) -> Int32:
    """w_sum [steps, N]: sum over each step of (code - zero), the padding counting nothing."""
    n_rows = codes.shape[0]
    flat = _pad(codes, layout)[:, : layout.steps * layout.step]
    sums = flat.reshape(n_rows, layout.steps, layout.step).sum(axis=2, dtype=np.int32)
    if zeros.any():
        filled = np.clip(
            layout.group_size - layout.step * np.arange(layout.group_padded // layout.step), 0, layout.step
        )
        counts = np.tile(filled.astype(np.int32), layout.groups)
        sums = sums - _per_step(zeros, layout).T.astype(np.int32) * counts
    return np.ascontiguousarray(sums.T)


def _per_step(values: npt.NDArray[_Scalar], layout: Layout) -> npt.NDArray[_Scalar]:
    repeated: npt.NDArray[_Scalar] = np.repeat(values, layout.group_padded // layout.step, axis=1)
    transposed: npt.NDArray[_Scalar] = np.transpose(repeated)
    return transposed


def _pad(codes: Int8, layout: Layout) -> Int8:
    """codes [N, K] -> [N, Kp], zero in the padding."""
    n_rows = codes.shape[0]
    if layout.packed_length == layout.row_length:
        return np.ascontiguousarray(codes)
    padded = np.zeros((n_rows, layout.packed_length), np.int8)
    groups = padded[:, : layout.groups * layout.group_padded].reshape(n_rows, layout.groups, layout.group_padded)
    groups[:, :, : layout.group_size] = codes.reshape(n_rows, layout.groups, layout.group_size)
    return padded

"""What the blocks of GGUF's quantized types hold, as integers, scales and zero terms. numpy only.

The gguf package reads the files and can dequantize; here the integers are kept. Layouts: ggml-common.h of ggml, which
gguf's own `dequantize` follows too (a test compares the two bit for bit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]
_SUPER = 256  # weights of a block of the K types


@dataclass(frozen=True, slots=True)
class BlockType:
    """bytes and weights of a block, weights that share a scale, and bits of the codes as they are stored here."""

    size_bytes: int
    weights: int
    group_size: int
    bits: int
    has_terms: bool


@dataclass(frozen=True, slots=True)
class Blocks:
    """weight = scales * codes - terms. codes int8 [N, K], scales f32 [N, K / group_size], terms alike or None.

    n_rounded: groups whose term float32 does not hold exactly, so that it is off by at most 2^-25 of itself.
    """

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    terms: npt.NDArray[np.float32] | None
    n_rounded: int


TYPES = {
    "q4_0": BlockType(18, 32, 32, 4, False),
    "q4_1": BlockType(20, 32, 32, 4, True),
    "q5_0": BlockType(22, 32, 32, 8, False),
    "q5_1": BlockType(24, 32, 32, 8, True),
    "q8_0": BlockType(34, 32, 32, 8, False),
    "q4_k": BlockType(144, _SUPER, 32, 4, True),
    "q5_k": BlockType(176, _SUPER, 32, 8, True),
    "q6_k": BlockType(210, _SUPER, 16, 8, False),
}


def read_blocks(raw: Bytes, kind: str) -> Blocks:
    """raw [N, bytes of a row] of a type in TYPES. Every product of a scale is exact in float32."""
    blocks = raw.reshape(-1, TYPES[kind].size_bytes)
    codes, scales, terms = _READERS[kind](blocks)
    n_rows = len(raw)
    shape = (n_rows, scales.size // n_rows)
    rounded = None if terms is None else terms.astype(np.float32)
    n_rounded = 0 if terms is None or rounded is None else int((rounded != terms).sum())
    return Blocks(
        codes.astype(np.int8).reshape(n_rows, -1),
        scales.astype(np.float32).reshape(shape),
        None if rounded is None else rounded.reshape(shape),
        n_rounded,
    )


_Read = tuple[npt.NDArray[np.int16], Float64, Float64 | None]


def _half(blocks: Bytes, at: int) -> Float64:
    """The float16 at a byte of each block, [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float64)


def _nibbles(packed: Bytes) -> npt.NDArray[np.int16]:
    """[blocks, b] -> [blocks, 2 b]: all low halves, then all high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1).astype(np.int16)


def _fifth_bits(packed: Bytes) -> npt.NDArray[np.int16]:
    """Bit i of 4 bytes belongs to weight i."""
    return np.unpackbits(packed, axis=-1, bitorder="little").astype(np.int16) << 4


def _q4_0(blocks: Bytes) -> _Read:
    return _nibbles(blocks[:, 2:]) - 8, _half(blocks, 0), None


def _q4_1(blocks: Bytes) -> _Read:
    scale = _half(blocks, 0)
    return _nibbles(blocks[:, 4:]) - 8, scale, -_half(blocks, 2) - 8 * scale


def _q5_0(blocks: Bytes) -> _Read:
    return (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])) - 16, _half(blocks, 0), None


def _q5_1(blocks: Bytes) -> _Read:
    scale = _half(blocks, 0)
    return (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])) - 16, scale, -_half(blocks, 2) - 16 * scale


def _q8_0(blocks: Bytes) -> _Read:
    return blocks[:, 2:].view(np.int8).astype(np.int16), _half(blocks, 0), None


def _six_bit_scales(packed: Bytes) -> tuple[Float64, Float64]:
    """12 bytes -> 8 scales and 8 minima of 6 bits: four of each whole, of the others the upper two bits apart."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, (third & 15) | (first >> 6 << 4)), axis=-1)
    minima = np.concatenate((second & 63, (third >> 4) | (second >> 6 << 4)), axis=-1)
    return scales.astype(np.float64), minima.astype(np.float64)


def _pairs(packed: Bytes) -> npt.NDArray[np.int16]:
    """128 bytes -> 256 codes: of each 32 bytes the low halves, then the high ones."""
    quarters = packed.reshape(len(packed), 4, 32)
    return np.concatenate((quarters & 15, quarters >> 4), axis=-1).reshape(len(packed), _SUPER).astype(np.int16)


def _q4_k(blocks: Bytes) -> _Read:
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    scales = _half(blocks, 0) * scales
    return _pairs(blocks[:, 16:]) - 8, scales, _half(blocks, 2) * minima - 8 * scales


def _q5_k(blocks: Bytes) -> _Read:
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    scales = _half(blocks, 0) * scales
    bits = np.arange(8, dtype=np.uint8).reshape(8, 1)  # bit g of byte i belongs to weight i of group g
    fifth = (blocks[:, 16:48].reshape(-1, 1, 32) >> bits & 1).reshape(-1, _SUPER).astype(np.int16) << 4
    return (_pairs(blocks[:, 48:]) | fifth) - 16, scales, _half(blocks, 2) * minima - 16 * scales


def _q6_k(blocks: Bytes) -> _Read:
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(2, 1) & 15
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(4, 1) & 3
    codes = low.reshape(-1, _SUPER).astype(np.int16) | high.reshape(-1, _SUPER).astype(np.int16) << 4
    scales = blocks[:, 192:208].view(np.int8).astype(np.float64)
    return codes - 32, _half(blocks, 208) * scales, None


_READERS: dict[str, Callable[[Bytes], _Read]] = {
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}

"""Packing of weights: the layout of docs/design.md section 4, element by element, and its inverse."""

from __future__ import annotations

import time

import numpy as np
import pytest

from zeropoint.lowering.packing import STEPS, Layout, pack_scales, pack_sums, pack_weight, pack_zeros, unpack_weight

SIZES = [(64, 32), (96, 12), (30, 30), (1000, 1000), (40, 40), (576, 576), (100, 20), (256, 256), (36, 9), (7, 1)]


def codes_of(n: int, k: int, bits: int) -> np.ndarray:
    half = 2 ** (bits - 1)
    return np.random.default_rng(0).integers(-half, half, (n, k)).astype(np.int8)


@pytest.mark.parametrize(("k", "group_size"), SIZES)
@pytest.mark.parametrize("bits", [4, 8])
def test_unpacking_gives_the_codes_back(k: int, group_size: int, bits: int) -> None:
    layout, codes = Layout.of(k, group_size), codes_of(13, k, bits)
    np.testing.assert_array_equal(unpack_weight(pack_weight(codes, layout, bits=bits), layout, bits=bits), codes)


@pytest.mark.parametrize(("k", "group_size"), SIZES)
def test_every_nibble_and_byte_is_where_the_design_says(k: int, group_size: int) -> None:
    layout = Layout.of(k, group_size)
    assert layout.step in STEPS
    assert layout.packed_length % 32 == 0
    n_outputs = 3
    codes = codes_of(n_outputs, k, 4)
    nibbles = pack_weight(codes, layout, bits=4).reshape(-1, n_outputs, 4, 4)
    wide = pack_weight(codes, layout, bits=8)
    seen = set()
    for source in range(k):
        position = source // group_size * layout.group_padded + source % group_size
        seen.add(position)
        chunk, rest = divmod(position, 32)
        word, within = divmod(rest, 8)
        shift = 4 if within >= 4 else 0
        byte = nibbles[chunk, :, word, within % 4]
        np.testing.assert_array_equal((byte >> shift) & 15, codes[:, source].view(np.uint8) & 15)
        np.testing.assert_array_equal(wide[position // 16, :, position % 16], codes[:, source])
    padding = [p for p in range(layout.packed_length) if p not in seen]
    assert all(not wide[p // 16, :, p % 16].any() for p in padding)


@pytest.mark.parametrize(("k", "group_size"), SIZES)
def test_sums_and_scales_add_up_to_the_groups(k: int, group_size: int) -> None:
    layout, codes = Layout.of(k, group_size), codes_of(5, k, 8)
    generator = np.random.default_rng(1)
    zeros = generator.integers(-8, 8, (5, k // group_size)).astype(np.int32)
    scales = generator.random((5, k // group_size)).astype(np.float32)
    sums, per_step = pack_sums(codes, zeros, layout), pack_zeros(zeros, layout)
    wanted = (codes.reshape(5, -1, group_size).astype(np.int64) - zeros[:, :, None]).sum(2)
    np.testing.assert_array_equal(sums.T.reshape(5, k // group_size, -1).sum(2), wanted)
    parts = layout.group_padded // layout.step
    np.testing.assert_array_equal(per_step, np.repeat(zeros, parts, 1).T)
    np.testing.assert_array_equal(pack_scales(scales, layout), np.repeat(scales, parts, 1).T)


@pytest.mark.parametrize(
    ("group_size", "step", "padded"),
    [
        (8, 8, 8),
        (12, 16, 16),
        (32, 32, 32),
        (40, 16, 48),
        (96, 96, 96),
        (128, 128, 128),
        (192, 96, 192),
        (576, 96, 576),
    ],
)
def test_steps(group_size: int, step: int, padded: int) -> None:
    layout = Layout.of(group_size, group_size)
    assert (layout.step, layout.group_padded) == (step, padded)


def test_a_vocabulary_packs_in_well_under_a_second() -> None:
    codes, layout = codes_of(49152, 576, 4), Layout.of(576, 32)
    zeros = np.zeros((49152, 18), np.int32)
    start = time.process_time()
    pack_weight(codes, layout, bits=4)
    pack_sums(codes, zeros, layout)
    assert time.process_time() - start < 1.0

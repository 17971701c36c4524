"""Codes, scales and terms make, bit for bit, what the gguf package dequantizes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from zeropoint.quantization.gguf_blocks import TYPES, read_blocks


def random_blocks(kind: str, rows: int, blocks: int) -> np.ndarray:
    """uint8 [rows, blocks * bytes] made by gguf of numbers where it can, else of random bytes and usual halves."""
    generator = np.random.default_rng(0)
    block = TYPES[kind]
    values = generator.standard_normal((rows, blocks * block.weights)).astype(np.float32) + 0.5
    try:
        return gguf.quantize(values, gguf.GGMLQuantizationType[kind.upper()])
    except NotImplementedError:
        raw = generator.integers(0, 256, (rows * blocks, block.size_bytes), dtype=np.uint8)
        for at in (208,) if kind == "q6_k" else (0, 2):
            halves = generator.uniform(0.001, 0.02, (rows * blocks, 1)).astype(np.float16)
            raw[:, at : at + 2] = halves.view(np.uint8)
        return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", TYPES)
def test_as_gguf_dequantizes(kind: str) -> None:
    block = TYPES[kind]
    raw = random_blocks(kind, 7, 3)
    found = read_blocks(raw, kind)
    half = 2 ** (block.bits - 1)
    assert found.codes.shape == (7, 3 * block.weights)
    assert found.codes.dtype == np.int8
    assert -half <= found.codes.min()
    assert found.codes.max() < half
    assert found.scales.shape == (7, 3 * block.weights // block.group_size)
    assert (found.terms is not None) == block.has_terms
    groups = found.codes.reshape(*found.scales.shape, block.group_size).astype(np.float64)
    weights = groups * found.scales[..., None].astype(np.float64)
    if found.terms is not None:
        weights -= found.terms[..., None].astype(np.float64)
    wanted = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind.upper()])
    assert found.n_rounded == 0
    np.testing.assert_array_equal(weights.reshape(wanted.shape).astype(np.float32), wanted)


def test_a_term_that_float32_does_not_hold() -> None:
    """A minimum of 2^15 and 1, beside scales of 2^-24: counted, and off by less than a place."""
    raw = np.zeros((1, 20), np.uint8)
    raw[0, :2] = np.array([2.0**-24], np.float16).view(np.uint8)
    raw[0, 2:4] = np.array([2.0**15 + 32], np.float16).view(np.uint8)
    found = read_blocks(raw, "q4_1")
    assert found.n_rounded == 1
    assert found.terms is not None
    assert float(found.terms[0, 0]) == -(2.0**15 + 32)

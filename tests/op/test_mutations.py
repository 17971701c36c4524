"""The checks of test_quantized_linear, and `verify`, fail when one shader takes its zero point for another dtype.

This is the bug that shaped the project, planted in each kernel and tier, for every dtype, in buffers and in images.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator

import pytest
import torch

from tests.op.blocks import Block
from tests.op.calls import device_facts, lanes_are_a_vector
from tests.op.chain import Chain
from tests.op.mutated import library
from tests.op.rows import quantization_rows
from tests.op.test_quantized_linear import check, tier
from zeropoint.runtime.player import validation
from zeropoint.verification.verify import verify_program

# In an image the driver converts by the image's own format, so that only a wrong kind of number (integers for floats)
# shows when it runs; a wrong format of the same kind is for the build to refuse (tests/unit/kernels/test_shaders.py).
CASES = [
    *((zp, read_as, "buffer") for zp, read_as in itertools.permutations(("i8", "i32", "f32", "f16"), 2)),
    *((zp, read_as, "image") for zp, read_as in itertools.product(("i8", "i32"), ("f32", "f16"))),
    *((zp, read_as, "image") for zp, read_as in itertools.product(("f32", "f16"), ("i8", "i32"))),
]
TIERS = [
    ("linear_dq8ca", "gemv", 3, "is_cpu"),
    ("linear_dq8ca", "tiled", 33, "is_cpu"),
    ("linear_dq8ca", "gemv_nodot", 3, "is_cpu,int8_dot"),
    ("linear_dq8ca", "tiled_nodot", 19, "is_cpu,int8_dot"),
    ("quantize_and_pack", "blocks", 19, "is_cpu"),
]
FUSED_TIERS = [("rows", "is_cpu")]
if lanes_are_a_vector():
    TIERS += [("linear_dq8ca", "broadcast_gemv", 1, ""), ("linear_dq8ca", "broadcast_tiled", 19, "")]
if device_facts()["is_cpu"]:
    FUSED_TIERS += [("few_lanes", "")]

# The first token of an i32 buffer reads the same as i8 on a little-endian machine, and this tier has one token.
INVISIBLE = ("broadcast_gemv", "i32", "i8", "buffer")


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    """What a too wide read finds behind a single zero point is a pattern, not what an earlier program left there.

    The upper half of the same f32 would complete the lower one to a number that rounds to the right zero point.
    """
    perturb, libc = -6, ctypes.CDLL(None)  # glibc's M_PERTURB, of the memory that a software device hands out
    assert libc.mallopt(perturb, 0x5A)
    yield
    libc.mallopt(perturb, 0)


@pytest.mark.parametrize(
    ("kernel", "algorithm", "rows", "disabled", "zp", "read_as", "storage"),
    [
        pytest.param(*tier, *case, marks=[] if tier[1] in ("gemv", "tiled") else [pytest.mark.slow])
        for tier, case in itertools.product(TIERS, CASES)
        if (tier[1], *case) != INVISIBLE
    ],
)
def test_a_misread_zero_point_is_caught(
    kernel: str,
    algorithm: str,
    rows: int,
    disabled: str,
    zp: str,
    read_as: str,
    storage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    chain = Chain(k=96, n=37, group_size=32, zp=zp, storage=storage)
    x = quantization_rows(chain.k)
    x = x[min(8, len(x) - rows) :][:rows]
    if algorithm in ("gemv", "tiled"):
        algorithm = tier(chain, rows)  # others for zero points that recipes make
    honest = library(chain, kernel=kernel, algorithm=algorithm, read_as=None)
    check(chain, x, rows_at_once=(rows,), library=honest)
    wrong = library(chain, kernel=kernel, algorithm=algorithm, read_as=read_as)
    assert is_caught(chain, x, rows=rows, library=wrong)


@pytest.mark.parametrize(
    ("algorithm", "disabled", "zp", "read_as", "storage"),
    [
        pytest.param(*tier, *case, marks=[] if (tier[0], case[2]) == ("rows", "buffer") else [pytest.mark.slow])
        for tier, case in itertools.product(FUSED_TIERS, CASES)
    ],
)
def test_a_misread_zero_point_of_fused_rows_is_caught(
    algorithm: str, disabled: str, zp: str, read_as: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """quantize_rows, judged by `verify` from its own inputs."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    chain = Chain(k=96, n=37, group_size=32, zp=zp, storage=storage)
    program, constants = Block(chain, "norm").build("quantize,norm_quantize")
    inputs = [quantization_rows(chain.k)[8:21]]
    honest = library(chain, kernel="quantize_rows", algorithm=algorithm, read_as=None)
    verified = verify_program(program, constants, inputs, library=honest)
    assert verified.is_right, verified.verdict()
    wrong = library(chain, kernel="quantize_rows", algorithm=algorithm, read_as=read_as)
    verified = verify_program(program, constants, inputs, library=wrong)
    messages = validation(clear=True).count
    assert not verified.is_right or messages > 0


def is_caught(chain: Chain, x: torch.Tensor, *, rows: int, library: bytes) -> bool:
    """By a wrong result or by a message of the validation layers."""
    try:
        check(chain, x, rows_at_once=(rows,), library=library)
    except AssertionError:
        return True
    finally:
        messages = validation(clear=True).count
    return messages > 0

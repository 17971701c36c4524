"""Which algorithm of a linear a large GPU with cooperative matrices takes, on both sides of each bound.

No software device has matrices, so that the guards are evaluated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropoint.kernels.expr import evaluate
from zeropoint.kernels.facts import FACTS
from zeropoint.kernels.manifest import Manifest
from zeropoint.kernels.manifest_reader import load_manifests

SHADERS = Path(__file__).parents[3] / "shaders"
GPU = {"int8_dot": 1, "coopmat_f16_16x16x16": 1, "subgroup_size": 32, "max_loop_iterations": 2**31 - 1}


@pytest.fixture(scope="module")
def linear() -> Manifest:
    return next(manifest for manifest in load_manifests(SHADERS) if manifest.name == "linear_dq8ca")


@pytest.mark.parametrize(
    ("rows", "k", "n", "algorithm"),
    [
        (1, 128, 12800, "gemv"),
        (32, 128, 12800, "gemv_pair"),
        (33, 128, 12800, "coopmat_wide"),
        (40, 128, 12160, "coopmat_small"),  # 95 of the wide tiles
        (40, 128, 12161, "coopmat_wide"),
        (40, 128, 16896, "coopmat_wide"),
        (40, 128, 16897, "coopmat_medium"),  # 133
        (40, 192, 16896, "coopmat_medium"),  # no pairs of pairs of chunks
        (40, 128, 12300, "coopmat_wide"),
        (128, 4096, 6144, "coopmat_wide"),
        (512, 8192, 2048, "coopmat_wide"),
        (70, 128, 14208, "coopmat_medium"),  # 111 of the large tiles
        (70, 128, 14209, "coopmat_large"),
        (70, 128, 16896, "coopmat_large"),
        (70, 128, 16897, "coopmat_medium"),
        (70, 128, 28544, "coopmat_medium"),
        (70, 128, 28545, "coopmat_large"),  # 224
        (64, 128, 28545, "coopmat_medium"),  # half of a large tile's rows, and no more
        (40, 256, 2560, "coopmat_tiny"),
        (40, 256, 2561, "coopmat_small"),
        (200, 256, 736, "coopmat_small"),  # 161
        (40, 320, 128, "coopmat_medium"),
        (40, 576, 128, "gemv_rows"),  # too few tiles for so many chunks
        (40, 16384, 4096, "coopmat_small"),
        (40, 16512, 4096, "gemv_rows"),  # a row that is too long
        (513, 16512, 4096, "tiled"),
    ],
)
def test_the_first_whose_guard_holds(linear: Manifest, rows: int, k: int, n: int, algorithm: str) -> None:
    assert next(holding(linear, rows, k, n)) == algorithm


@pytest.mark.parametrize(("n", "algorithm"), [(12224, "coopmat_small"), (12225, "coopmat_medium")])
def test_weights_with_sums_have_no_wide_tile(linear: Manifest, n: int, algorithm: str) -> None:
    """191 and 192 of the medium tiles."""
    assert next(name for name in holding(linear, 40, 128, n) if name != "coopmat_wide") == algorithm


def holding(linear: Manifest, rows: int, k: int, n: int) -> Iterator[str]:
    """The algorithms whose guards hold, in the manifest's order."""
    facts = dict.fromkeys(FACTS, 0) | GPU
    shapes = {"q": (rows, k), "y": (rows, n), "w_scale": (k // 32, n)}
    guards = ((item.name, item.when) for item in linear.algorithms)
    return (name for name, when in guards if when is None or evaluate(when, shapes, attrs={"step": 32}, facts=facts))

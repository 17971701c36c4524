"""attention on cooperative matrices, emulated by plain arrays (shaders/coopmat.glsl): index math for any device."""

from __future__ import annotations

import math
import re
from functools import cache

import pytest
import torch

from tests.op.attention_cases import Case, Inputs
from tests.op.calls import DEVICE_DTYPES, EMULATED_MATRICES, SHADERS, fitting_views, library_of, run_call
from tests.op.test_attention import (
    FACTS,
    check,
    check_apart,
    check_of_any_size,
    large_and_orthogonal,
    values_apart,
)
from zeropoint.references import OutputSpec

GUARD = " and ".join(f"device.{fact}" for fact in FACTS) + " and device.subgroup_size == 32 and "
TILE = "TILE_M = 32, TILE_N = 64"
# Software devices have less shared memory: the same code on smaller tiles.
SMALLER = {"coopmat_wide": "TILE_M = 32, TILE_N = 32"}


@cache
def emulated(name: str, dtype: str, mask: str) -> bytes:
    """A kernel library whose attention has the algorithm `name` for any device, of these dtypes alone."""
    head, *algorithms = (SHADERS / "attention.toml").read_text().split("[[algorithm]]")
    (chosen,) = (text for text in algorithms if f'name = "{name}"' in text)
    assert GUARD in chosen
    chosen = re.sub(r" and numel\(y\) >= [^\"]*", "", chosen.replace(GUARD, ""))
    if name in SMALLER:
        assert TILE in chosen
        chosen = chosen.replace(TILE, SMALLER[name])
    chosen = chosen.replace("unroll = true\n", "")
    tiled = 'source = "attention_tiled.comp"\n'
    others = [text.replace(tiled, f"{tiled}where = [\"dtype(k) == 'i8'\"]\n") for text in algorithms if tiled in text]
    for slots, dtypes in (("[qy]", f'"{dtype}"'), ("[kv]", f'"{dtype}", "i8"'), ("mask", f'"{mask}"')):
        head = re.sub(rf"^({slots} = .*dtype = )\[.*?\]", rf"\1[{dtypes}]", head, flags=re.M)
    return library_of({"attention": fitting_views("[[algorithm]]".join([head, chosen, *others]))}, EMULATED_MATRICES)


def run_emulated(case: Case, inputs: Inputs, name: str = "") -> torch.Tensor:
    name = name or ("coopmat" if case.head_dim <= 64 else "coopmat_wide")
    mask = "u8" if case.mask != "add" else DEVICE_DTYPES[case.dtype]
    outputs = {"y": OutputSpec(case.y_shape, case.dtype)}
    library = emulated(name, DEVICE_DTYPES[case.dtype], mask)
    result, pick = run_call("attention", inputs, outputs, case.attrs(), library=library)
    assert pick.algorithm == name
    return result["y"]


def slow(case: Case) -> object:
    """A software device takes long to compile these."""
    return pytest.param(case, marks=pytest.mark.slow)


MATRIX_CASES = [
    Case(queries=19),
    Case(queries=33, keys=131, start=98, heads=4, kv_heads=2, batch=2, layouts=(1, 1, 1)),
    Case(queries=19, window=13),
    Case(queries=80, keys=300, start=200, window=90),
    Case(queries=40, keys=150, start=(4, 99, 0), heads=6, kv_heads=3, batch=3),
    Case(queries=19, soft_cap=50.0, scale=2.0),
    Case(queries=19, causal=False, filled=True, start=11, scale=-0.2),
    Case(queries=21, keys=21, start=0, batch=2, heads=6, kv_heads=2, layouts=(1, 1, 1), merged=True),
    Case(queries=19, dtype=torch.float16, mask="add", causal=False),
    slow(Case(queries=19, mask="u8", mask_dims="BHS", causal=False, batch=2, heads=4, kv_heads=2)),
    slow(Case(queries=19, mask="u8", causal=False, nan_rows=True)),
    slow(Case(queries=19, mask="add", causal=False)),
    slow(Case(queries=19, dtype=torch.float16)),
    *(slow(Case(queries=19, head_dim=head_dim)) for head_dim in (16, 48, 80, 96, 112, 128)),
    slow(Case(queries=19, head_dim=128, dtype=torch.float16, window=40)),
]


@pytest.mark.parametrize("case", MATRIX_CASES, ids=str)
def test_cases(case: Case) -> None:
    inputs = case.inputs()
    check(case, run_emulated(case, inputs), inputs)


@pytest.mark.parametrize("nan_rows", [False, True])
def test_rows_that_see_nothing(nan_rows: bool) -> None:
    """Zero or NaN; their neighbours are untouched."""
    case = Case(queries=19, dtype=torch.float16, mask="add", causal=False, nan_rows=nan_rows)
    inputs = case.inputs()
    inputs["mask"][:, :, 1] = -torch.inf
    actual = run_emulated(case, inputs)
    check(case, actual, inputs)
    assert (torch.isnan(actual[:, :, 1]) if nan_rows else actual[:, :, 1] == 0).all()


SMALL_TILES = [
    Case(queries=19, dtype=torch.float16, window=40),
    Case(queries=19, mask="u8", causal=False, nan_rows=True),
    Case(queries=19, soft_cap=50.0, scale=-2.0),
]


@pytest.mark.parametrize("case", [MATRIX_CASES[1], MATRIX_CASES[3], *map(slow, SMALL_TILES)], ids=str)
def test_smaller_tiles(case: Case) -> None:
    inputs = case.inputs()
    check(case, run_emulated(case, inputs, "coopmat_many"), inputs)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e38, 1e-38], ids=str)
@pytest.mark.parametrize("slot", ["q", "k", "v"])
def test_any_size(slot: str, value: float) -> None:
    """Halves hold none of these: factors bring what is finite into their range, the rest is computed without them."""
    case = Case(queries=19)
    inputs = case.inputs()
    inputs[slot][0, 0, 1, 3] = value
    check_of_any_size(case, run_emulated(case, inputs), inputs)


@pytest.mark.parametrize("size", [1e-4, 3e3, 1e12])
def test_rows_of_any_size(size: float) -> None:
    """Queries by 1 / size, every second key by size, a tile of values by it."""
    case = Case(queries=19, keys=150, start=120)
    inputs = case.inputs()
    inputs["q"] /= size
    inputs["k"][:, :, ::2] *= size
    inputs["v"][:, :, 64:128] *= size
    check(case, run_emulated(case, inputs), inputs)


def test_scores_of_0() -> None:
    """Factors of both are beyond the largest float."""
    case = Case(queries=19)
    inputs = large_and_orthogonal(case)
    check(case, run_emulated(case, inputs), inputs)


@pytest.mark.parametrize("size", [1e5, 1e7, 1e12, 1e30])
@pytest.mark.parametrize("column", [0, 63])
def test_values_far_apart(size: float, column: int) -> None:
    """What does not see the large one, and the other columns, keep their bits."""
    case, inputs = values_apart(size, column)
    check_apart(case, run_emulated(case, inputs), inputs)

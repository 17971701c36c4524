"""attention, attention_decode_partial and attention_decode_reduce: every variant, shape, mask and tier.

test_emulated_attention.py has the kernel on cooperative matrices for devices that have none.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from tests.op.attention_cases import Case, Inputs, torch_attention
from tests.op.by_day import by_day
from tests.op.calls import (
    DEVICE_DTYPES,
    MATRICES,
    checked_call,
    device_facts,
    expected_outputs,
    lanes_are_a_vector,
    mutated_library,
    relative_rms,
    run_call,
    takes_matrices,
)
from tests.op.tolerance import check_table
from zeropoint.program.builder import ProgramBuilder
from zeropoint.references import OutputSpec
from zeropoint.runtime.player import LoadedProgram, counters

# Relative RMS over all elements. f32: the rounding of products and exponentials, and of sums in key order, whose error
# grows with the root of the number of keys. f16: the rounding of the stored result, half of 2^-11 or less.
TOLERANCE = {torch.float32: 6e-7, torch.float16: 4e-4}
TOLERANCE_PER_ROOT_KEY = 4e-8
# Scores near a soft cap of 50 carry an absolute error of 50 * 2^-23 and more.
TOLERANCE_SOFT_CAP = 6e-6
# The algorithms for software devices run on those alone.
TIERS = ("cpu", "gpu") if lanes_are_a_vector() else ("gpu",)
PLACEHOLDER_SPLITS = 3
# That the kernel on cooperative matrices takes, beside subgroups of 32.
FACTS = (MATRICES, "subgroup_arithmetic", "subgroup_clustered")


def tolerance(case: Case) -> float:
    grown = TOLERANCE_PER_ROOT_KEY * math.sqrt(case.keys)
    return TOLERANCE[case.dtype] + grown + (TOLERANCE_SOFT_CAP if case.soft_cap else 0.0)


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of algorithm run everywhere; the one for GPUs runs on software devices by hiding what they are."""
    use_tier(monkeypatch, request.param)
    return str(request.param)


def use_tier(monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu" if tier == "gpu" else "")


def algorithm(case: Case, tier: str) -> str:
    """The algorithm of `attention` that must be picked: a test that quietly ran another one would prove nothing."""
    rows = case.queries * case.group
    if tier == "cpu":
        return "rows" if rows <= 8 or case.head_dim > 128 else "many_rows" if case.head_dim <= 64 else "many_rows_wide"
    if rows <= 16:
        return "few"
    if (
        takes_matrices()
        and all(device_facts()[fact] for fact in FACTS)
        and case.cache == "same"
        and case.head_dim % 16 == 0
        and case.head_dim <= 128
    ):
        return matrix_tile(case)
    return "tiled" if case.head_dim <= 64 else "tiled_wide" if case.head_dim <= 128 else "tiled_widest"


def matrix_tile(case: Case) -> str:
    name, tile, fewest = ("coopmat", 32, 192) if case.head_dim <= 64 else ("coopmat_wide", 64, 112)
    is_many = math.prod(case.y_shape) >= fewest * tile * case.head_dim and case.mask != "add"
    return f"{name}_many" if is_many else name


def run_attention(case: Case, inputs: Inputs, tier: str) -> torch.Tensor:
    outputs = {"y": OutputSpec(case.y_shape, case.dtype)}
    result, pick = run_call("attention", inputs, outputs, case.attrs())
    assert pick.algorithm == algorithm(case, tier)
    return result["y"]


def run_split(case: Case, inputs: Inputs, splits: int, tier: str) -> torch.Tensor:
    """Both kernels of decoding, the first compared with its reference, too."""
    rows = (case.batch, case.kv_heads, splits, case.queries * case.group)
    outputs = {
        "partial": OutputSpec((*rows, case.head_dim), torch.float32),
        "stats": OutputSpec((*rows, 2), torch.float32),
    }
    middle, pick = run_call("attention_decode_partial", inputs, outputs, case.partial_attrs())
    assert pick.algorithm == {"cpu": "rows", "gpu": "few"}[tier]
    wanted = expected_outputs("attention_decode_partial", inputs, outputs, case.partial_attrs())
    check_table("attention_decode_partial", {**inputs, **middle}, case.partial_attrs(), wanted, middle)
    limit = tolerance(dataclasses.replace(case, dtype=torch.float32))
    assert torch.equal(middle["stats"][..., 1] == 0, wanted["stats"][..., 1] == 0)
    assert torch.equal(middle["stats"][..., 0] < -3e38, wanted["stats"][..., 0] < -3e38)
    seen = wanted["stats"][..., 1] != 0
    for actual, expected in (
        (middle["partial"], wanted["partial"]),
        (middle["stats"][..., 0][seen], wanted["stats"][..., 0][seen]),
        (middle["stats"][..., 1][seen], wanted["stats"][..., 1][seen]),
    ):
        assert relative_rms(actual, expected) <= limit
    outputs = {"y": OutputSpec(case.y_shape, case.dtype)}
    result, _ = checked_call("attention_decode_reduce", middle, outputs, case.reduce_attrs())
    return result["y"]


def check(case: Case, actual: torch.Tensor, inputs: Inputs) -> None:
    wanted = expected_outputs("attention", inputs, {"y": OutputSpec(case.y_shape, case.dtype)}, case.attrs())["y"]
    if not case.nan_rows and not case.soft_cap:
        assert relative_rms(wanted, torch_attention(case, inputs)) < 1e-12  # the reference is torch's function
    assert torch.equal(torch.isnan(actual), torch.isnan(wanted))
    check_table("attention", {**inputs, "y": actual}, case.attrs(), {"y": wanted}, {"y": actual})
    error = relative_rms(actual.nan_to_num(), wanted.nan_to_num())
    assert error <= tolerance(case), f"{case}: {error:.2e} > {tolerance(case):.2e}"


VARIANTS = [
    (dtype, cache, mask)
    for dtype, cache, mask in itertools.product((torch.float32, torch.float16), ("same", "i8"), ("u8", "add"))
]
IN_PAIRS = [VARIANTS[index] for index in (0, 3, 5, 6)]  # of dtype, cache and mask any two in every combination


@pytest.mark.parametrize(
    ("queries", "head_dim", "dtype", "cache", "mask"),
    by_day(
        (shape + variant for shape, variant in itertools.product([(1, 64), (9, 48), (9, 72), (9, 132)], VARIANTS)),
        lambda queries, head_dim, *variant: variant in (IN_PAIRS if head_dim <= 64 else VARIANTS[::7]),
    ),
)
def test_every_variant(queries: int, head_dim: int, dtype: torch.dtype, cache: str, mask: str, tier: str) -> None:
    case = Case(queries=queries, head_dim=head_dim, dtype=dtype, cache=cache, mask=mask)
    inputs = case.inputs()
    check(case, run_attention(case, inputs, tier), inputs)


@pytest.mark.parametrize(("dtype", "cache", "mask"), by_day(VARIANTS, lambda *variant: variant in IN_PAIRS))
def test_every_split_variant(dtype: torch.dtype, cache: str, mask: str, tier: str) -> None:
    case = Case(queries=2, keys=211, start=150, dtype=dtype, cache=cache, mask=mask)
    inputs = case.inputs()
    check(case, run_split(case, inputs, PLACEHOLDER_SPLITS, tier), inputs)


# Of many workgroups: cooperative matrices have tiles of their own for these, no other algorithm has.
MANY = [
    Case(queries=768, keys=800, start=32, heads=8, kv_heads=2),
    Case(queries=768, keys=800, start=32, heads=8, kv_heads=2, dtype=torch.float16, soft_cap=30.0),
    Case(queries=768, keys=800, heads=8, kv_heads=2, mask="u8", causal=False),
    Case(queries=896, keys=930, start=32, heads=8, kv_heads=4, head_dim=128),
    Case(queries=896, keys=930, start=32, heads=8, kv_heads=4, head_dim=128, dtype=torch.float16, window=100),
    Case(queries=448, keys=480, start=(32, 0), heads=8, kv_heads=4, head_dim=128, batch=2, mask="u8", causal=False),
]
SHAPES = [
    Case(queries=1, keys=1, start=0, heads=1),
    Case(queries=1, keys=4099, start=4098, heads=4),
    Case(queries=2, keys=33, start=31, heads=8),
    Case(queries=7, keys=64, start=0, heads=8, kv_heads=2, head_dim=32),
    Case(queries=33, keys=65, start=0, heads=3, head_dim=80),
    Case(queries=33, keys=1031, start=997, heads=4, kv_heads=1, head_dim=36),
    Case(queries=128, keys=128, start=0, heads=2, kv_heads=2, head_dim=96),
    Case(queries=17, keys=40, start=3, heads=8, kv_heads=1, head_dim=128),
    Case(queries=33, keys=50, start=9, heads=4, kv_heads=2, head_dim=256),
    Case(queries=1, keys=50, start=9, heads=16, kv_heads=2, head_dim=256),
    Case(queries=3, keys=50, start=(4, 31, 0), heads=6, kv_heads=3, batch=3),
    Case(queries=9, keys=50, start=20, batch=2, layouts=(1, 1, 1), head_dim=72),
    Case(queries=9, keys=50, start=20, batch=2, layouts=(0, 1, 0)),
    Case(queries=9, keys=50, start=20, batch=2, layouts=(1, 0, 1), cache="i8"),
    Case(queries=3, keys=50, start=20, batch=2, layouts=(0, 1, 1), cache="i8"),
    Case(queries=21, keys=21, start=0, batch=2, heads=6, kv_heads=2, layouts=(1, 1, 1), merged=True),
    *(MANY if takes_matrices() else []),
]


# A software device compiles for each width: by day the algorithms of 80 and 96 have 72 and 128, that of 256 has 132.
@pytest.mark.parametrize("case", by_day(zip(SHAPES), lambda case: case.head_dim not in (80, 96, 256)), ids=str)
def test_shapes(case: Case, tier: str) -> None:
    inputs = case.inputs()
    check(case, run_attention(case, inputs, tier), inputs)


RULES = [
    change
    for queries in (2, 19)
    for change in [
        Case(queries=queries, causal=False),
        Case(queries=queries, causal=False, filled=True, start=11),
        Case(queries=queries, window=1),
        Case(queries=queries, window=13),
        Case(queries=queries, window=13, causal=False, start=9),
        Case(queries=queries, window=1000),
        Case(queries=queries, soft_cap=50.0, scale=2.0),
        Case(queries=queries, soft_cap=0.5),
        Case(queries=queries, scale=0.03),
        Case(queries=queries, scale=-0.2),
        Case(queries=queries, keys=32, start=40),  # further than the cache: all of it is seen
        *(
            Case(queries=queries, mask=mask, mask_dims=dims, causal=False, batch=2, heads=4, kv_heads=2)
            for mask in ("u8", "add")
            for dims in ("", "B", "H", "S", "BHS")
        ),
    ]
]


@pytest.mark.parametrize("case", RULES, ids=str)
def test_rules(case: Case, tier: str) -> None:
    inputs = case.inputs()
    check(case, run_attention(case, inputs, tier), inputs)


@pytest.mark.parametrize(
    ("queries", "nan_rows", "splits"),
    by_day(itertools.product((2, 19), (False, True), (0, 2)), lambda queries, _, splits: queries == 2 or not splits),
)
def test_rows_that_see_nothing(queries: int, nan_rows: bool, splits: int, tier: str) -> None:
    """Zero, as scaled_dot_product_attention, or NaN, as softmax; their neighbours are untouched."""
    for mask in ("u8", "add"):
        case = Case(queries=queries, mask=mask, causal=False, nan_rows=nan_rows)
        inputs = case.inputs()
        inputs["mask"][:, :, 1] = 0 if mask == "u8" else -torch.inf
        actual = run_split(case, inputs, splits, tier) if splits else run_attention(case, inputs, tier)
        check(case, actual, inputs)
        assert (torch.isnan(actual[:, :, 1]) if nan_rows else actual[:, :, 1] == 0).all()


@pytest.mark.parametrize("queries", [1, 19])
def test_smallest_finite_mask(queries: int, tier: str) -> None:
    """Hugging Face hides keys by the smallest finite number; a row of nothing else averages all values, as in torch."""
    case = Case(queries=queries, mask="add", causal=False)
    inputs = case.inputs()
    lowest = torch.finfo(torch.float32).min
    inputs["mask"] = torch.zeros_like(inputs["mask"]).masked_fill(inputs["mask"] < 0, lowest)
    inputs["mask"][:, :, 0] = lowest
    check(case, run_attention(case, inputs, tier), inputs)


SPLITS = [
    (Case(queries=1, keys=64, start=0), 4),
    (Case(queries=1, keys=200, start=63), 4),
    (Case(queries=1, keys=200, start=64), 4),
    (Case(queries=1, keys=4099, start=4098, heads=8, kv_heads=2, head_dim=128), 16),
    (Case(queries=1, keys=4099, start=700, head_dim=256), 64),
    (Case(queries=3, keys=1031, start=800, heads=4, window=300), 5),
    (Case(queries=2, keys=300, start=(250, 3), batch=2, heads=8, kv_heads=2, layouts=(1, 1, 1)), 3),
    (Case(queries=7, keys=300, start=100, heads=8, kv_heads=2, head_dim=72, mask="add", causal=False), 7),
    (Case(queries=1, keys=257, start=256, soft_cap=30.0, layouts=(0, 0, 1)), 1),
]


@pytest.mark.parametrize(("case", "splits"), by_day(SPLITS, lambda case, _: case.head_dim <= 128), ids=str)
def test_splits(case: Case, splits: int, tier: str) -> None:
    inputs = case.inputs()
    check(case, run_split(case, inputs, splits, tier), inputs)


def test_long_cache(tier: str) -> None:
    """32k positions, of which the unwritten ones hold NaN."""
    case = Case(queries=1, keys=32768, start=20_000, heads=2, head_dim=32)
    inputs = case.inputs()
    for slot in ("k", "v"):
        inputs[slot][:, :, 20_001:] = torch.nan
    actual = run_split(case, inputs, 32, tier)
    written = {slot: inputs[slot][:, :, :20_001] for slot in ("k", "v")}
    shorter = dataclasses.replace(case, keys=20_001)
    check(shorter, actual, inputs | written)


def test_same_bytes_every_time(tier: str) -> None:
    for case in (
        Case(queries=1, keys=501, start=480, heads=8, kv_heads=2),
        Case(queries=40, heads=8, kv_heads=2, start=3),
    ):
        inputs = case.inputs()
        assert torch.equal(run_attention(case, inputs, tier), run_attention(case, inputs, tier))


def test_position_moves_without_recording(tier: str) -> None:
    """The position is read on the device: a step further records nothing."""
    case = Case(queries=1, keys=300, heads=8, kv_heads=2)
    inputs = case.inputs()
    b = ProgramBuilder()
    slots = {slot: b.tensor(slot, DEVICE_DTYPES[value.dtype], value.shape) for slot, value in inputs.items()}
    slots["y"] = b.tensor("y", "f32", case.y_shape)
    for slot in inputs:
        b.input(slots[slot])
    b.call("attention", slots, case.attrs())
    b.output(slots["y"])
    program, constants = b.build()
    with LoadedProgram(program, constants) as loaded:
        recordings = []
        for start in (0, 1, 63, 64, 299):
            inputs["position"] = torch.tensor([start], dtype=torch.int32)
            (y,) = loaded.execute([np.asarray(value) for value in inputs.values()])
            recordings.append(counters()["recordings"])
            moved = dataclasses.replace(case, start=start)
            check(moved, torch.from_numpy(y), inputs)
            assert loaded.picks()[0].algorithm == algorithm(case, tier)
    assert len(set(recordings)) == 1


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan], ids=str)
@pytest.mark.parametrize("slot", ["q", "k", "v"])
@pytest.mark.parametrize(
    ("queries", "head_dim"), [(2, 64), (19, 64), (19, 128), *([(2048, 64), (2400, 128)] if takes_matrices() else [])]
)
def test_what_is_not_finite(queries: int, head_dim: int, slot: str, value: float, tier: str) -> None:
    """As eager: NaN rows where a score is NaN or infinite, and inf or NaN in one element of a value."""
    case = Case(queries=queries, head_dim=head_dim)
    inputs = case.inputs()
    inputs[slot][0, 0, 1, 3] = value
    check_of_any_size(case, run_attention(case, inputs, tier), inputs)


def check_of_any_size(case: Case, actual: torch.Tensor, inputs: Inputs) -> None:
    wanted = expected_outputs("attention", inputs, {"y": OutputSpec(case.y_shape, case.dtype)}, case.attrs())["y"]
    assert torch.equal(torch.isnan(actual), torch.isnan(wanted))
    assert torch.equal(torch.isinf(actual), torch.isinf(wanted))
    finite = torch.isfinite(wanted)
    assert not finite.any() or relative_rms(actual[finite], wanted[finite]) <= tolerance(case)
    check_table("attention", {**inputs, "y": actual}, case.attrs(), {"y": wanted}, {"y": actual}, {"y": finite})


def large_and_orthogonal(case: Case) -> Inputs:
    """Queries of 1e30, keys in turn of 1e-30 and, with scores of 0, of 1e30."""
    inputs = case.inputs()
    half = case.head_dim // 2
    q, k = inputs["q"], inputs["k"]
    q[..., :half] = 0.0
    k[..., 1::2, half:] = 0.0
    q *= 1e30
    k[..., ::2, :] *= 1e-30
    k[..., 1::2, :] *= 1e30
    return inputs


def test_scores_of_0_of_large_rows(tier: str) -> None:
    case = Case(queries=19)
    inputs = large_and_orthogonal(case)
    check(case, run_attention(case, inputs, tier), inputs)


def values_apart(size: float, column: int) -> tuple[Case, Inputs]:
    """One value is large, and half of the queries do not see it."""
    case = Case(queries=40, keys=70, start=0)
    inputs = case.inputs()
    inputs["v"][0, 0, 20, column] = size
    return case, inputs


def check_apart(case: Case, actual: torch.Tensor, inputs: Inputs) -> None:
    check(case, actual, inputs)
    unseen = dataclasses.replace(case, queries=20)
    check(unseen, actual[:, :, :20], inputs | {"q": inputs["q"][:, :, :20]})


@pytest.mark.parametrize("size", [1e5, 1e7, 1e12, 1e30])
@pytest.mark.parametrize("column", [0, 63])
def test_values_far_apart(size: float, column: int, tier: str) -> None:
    case, inputs = values_apart(size, column)
    check_apart(case, run_attention(case, inputs, tier), inputs)


def test_without_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fact's name forces them off."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", f"is_cpu,{MATRICES}")
    case = Case(queries=40, head_dim=128)
    inputs = case.inputs()
    outputs = {"y": OutputSpec(case.y_shape, case.dtype)}
    result, pick = run_call("attention", inputs, outputs, case.attrs())
    assert pick.algorithm == "tiled_wide"
    check(case, result["y"], inputs)


MUTATIONS = {
    "causal": ("cpu", 2, 64, "lib/attention_scores.glsl", "first + int(s) + 1, 0", "first + int(s) + 2, 0"),
    "rescale": ("gpu", 2, 64, "lib/attention_few.glsl", "sums[r] *= row_change[r];", ""),
    "slices": ("gpu", 19, 128, "attention_tiled.comp", "weight_sum[r] *= change;", ""),
    "max": (
        "gpu",
        19,
        64,
        "attention_tiled.comp",
        "now = max(now, part_largest[slice",
        "now = min(now, part_largest[slice",
    ),
}


@pytest.mark.parametrize(
    ("tier_name", "queries", "head_dim", "source", "old", "new"),
    [pytest.param(*case, id=name) for name, case in MUTATIONS.items() if case[0] in TIERS],
)
def test_a_wrong_shader_is_noticed(
    tier_name: str, queries: int, head_dim: int, source: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", f"is_cpu,{MATRICES}" if tier_name == "gpu" else "")
    case = Case(queries=queries, head_dim=head_dim, keys=200, start=150)
    inputs = case.inputs()
    library = mutated_library("attention", source, old, new)
    outputs = {"y": OutputSpec(case.y_shape, case.dtype)}
    result, pick = run_call("attention", inputs, outputs, case.attrs(), library=library)
    assert pick.algorithm == algorithm(case, tier_name)
    wanted = expected_outputs("attention", inputs, outputs, case.attrs())["y"]
    assert not relative_rms(result["y"], wanted) <= 100 * tolerance(case)

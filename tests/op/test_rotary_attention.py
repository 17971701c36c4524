"""rotary_attention: every variant, shape, rule and position, and that it is rotary_update_cache and then attention."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from tests.op.by_day import by_day
from tests.op.calls import DEVICE_DTYPES, checked_call, expected_outputs, mutated_library, relative_rms, run_call
from tests.op.rotary_attention_cases import ROTATION, Case, Tensors
from zeropoint.errors import RuntimeFailure
from zeropoint.program.builder import ProgramBuilder
from zeropoint.references import OutputSpec
from zeropoint.runtime.player import LoadedProgram

KERNEL = "rotary_attention"
# Relative RMS of y. f32: as attention's, with a rotation's rounding in the scores. f16: the rounding of the stored
# result, and of queries and keys where a last bit falls the other way.
TOLERANCE = {torch.float32: 8e-7, torch.float16: 6e-4}
TOLERANCE_PER_ROOT_KEY = 4e-8
TOLERANCE_SOFT_CAP = 6e-6  # scores near a soft cap of 50 carry an absolute error of 50 * 2^-23 and more


@pytest.fixture(autouse=True)
def not_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is for GPUs: a software device runs it when what it is is hidden."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")


def tolerance(case: Case) -> float:
    grown = TOLERANCE_PER_ROOT_KEY * math.sqrt(case.keys)
    return TOLERANCE[case.dtype] + grown + (TOLERANCE_SOFT_CAP if case.soft_cap else 0.0)


def two_calls(case: Case, inputs: Tensors) -> Tensors:
    """The caches and y by the kernels that this one replaces, in one Program; as they run on any device."""
    b = ProgramBuilder()
    inputs = {slot: value for slot, value in inputs.items() if slot not in ("split_sums", "arrived")}
    slots = {slot: b.tensor(slot, DEVICE_DTYPES[value.dtype], value.shape) for slot, value in inputs.items()}
    for slot in inputs:
        b.input(slots[slot])
    dtype = DEVICE_DTYPES[case.dtype]
    q_out = b.tensor("q_out", dtype, (case.batch, 1, case.heads, case.head_dim))
    y = b.tensor("y", dtype, case.y_shape)
    b.call("rotary_update_cache", {slot: slots[slot] for slot in ROTATION} | {"q_out": q_out}, case.rotation_attrs())
    args = {"q": q_out, "k": slots["k_cache"], "v": slots["v_cache"], "y": y}
    b.call("attention", args | {slot: slots[slot] for slot in ("mask", "position")}, case.attention_attrs())
    results = (slots["k_cache"], slots["v_cache"], y)
    for tensor in results:
        b.output(tensor)
    program, constants = b.build()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ZEROPOINT_DISABLE")
        with LoadedProgram(program, constants) as loaded:
            found = loaded.execute([value.contiguous().numpy() for value in inputs.values()])
    return dict(zip(("k_cache", "v_cache", "y"), (torch.from_numpy(x) for x in found), strict=True))


def check(case: Case) -> Tensors:
    """Against the reference and against the two kernels; what the device gave."""
    inputs = case.inputs()
    actual, wanted = checked_call(KERNEL, inputs, case.outputs(), case.attrs())
    for slot in ("k_cache", "v_cache"):
        assert not torch.isnan(actual[slot]).any()
    assert torch.equal(torch.isnan(actual["y"]), torch.isnan(wanted["y"]))
    assert not case.splits or not actual["arrived"].any(), "the next call would not find zeros"
    separate = two_calls(case, inputs)
    for slot in ("k_cache", "v_cache"):
        assert torch.equal(actual[slot], separate[slot]), slot
    for other in (wanted["y"], separate["y"]):
        assert torch.equal(torch.isnan(actual["y"]), torch.isnan(other))
        if actual["y"].nan_to_num().any() or other.nan_to_num().any():
            assert relative_rms(actual["y"].nan_to_num(), other.nan_to_num()) <= tolerance(case), str(case)
    return actual


DTYPES = [(torch.float32, torch.float32), (torch.float16, torch.float32), (torch.float16, torch.float16)]


@pytest.mark.parametrize(
    ("dtypes", "mask", "splits"),
    by_day(
        itertools.product(DTYPES, ("u8", "add"), (0, 2)),
        lambda dtypes, mask, splits: (splits == 0) == (mask == ("u8" if dtypes == DTYPES[1] else "add")),
    ),
)
def test_every_variant(dtypes: tuple[torch.dtype, torch.dtype], mask: str, splits: int) -> None:
    case = Case(heads=1, head_dim=32, mask=mask, normed=True, keys=231, places=(197,), splits=splits)
    check(dataclasses.replace(case, dtype=dtypes[0], table=dtypes[1]))


# A software device takes seconds to compile for each group, width and dtype: of equal ones, the first costs.
HEADS = [
    Case(heads=2, kv_heads=2, head_dim=32),
    Case(heads=4, kv_heads=4, head_dim=128, cache_layout=1, merged=False),
    Case(heads=5, head_dim=36, merged=False, y_layout=0, normed=True, dtype=torch.float16),
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            *(Case(heads=2 * group, kv_heads=2, head_dim=32, normed=group % 2 == 0) for group in range(2, 9)),
            Case(heads=8, head_dim=256, normed=True),
            Case(heads=8, head_dim=256, dtype=torch.float16),
            Case(heads=4, kv_heads=2, head_dim=96, cache_layout=1, y_layout=0),
            Case(keys=1031, places=(1030,), head_dim=96, dtype=torch.float16),
        )
    ),
]
ROTATIONS = [
    Case(interleaved=True),
    Case(interleaved=True, half_table=True),
    Case(half_table=True, rotary_dim=32),
    Case(interleaved=True, rotary_dim=16),
    Case(rotary_dim=20),
    Case(table_rows=1),
    Case(batch=2, table_rows=2, keys=30, places=(7,)),
]
RULES = [
    Case(causal=False),
    Case(causal=False, filled=True, places=(11,)),
    Case(window=1),
    Case(window=13),
    Case(window=13, causal=False),
    Case(window=1000),
    Case(soft_cap=50.0, scale=2.0),
    Case(soft_cap=0.5),
    Case(scale=0.03),
    *(
        Case(mask=mask, mask_dims=dims, causal=causal, batch=2, heads=2, kv_heads=2, head_dim=32, normed=True)
        for mask, causal in (("u8", True), ("add", False))
        for dims in ("", "B", "H", "BH")
    ),
]
PLACES = [
    Case(keys=1, places=(0,)),
    *(Case(keys=260, places=(place,)) for place in (0, 1, 127, 128, 129, 259)),
    Case(keys=1031, places=(1030,), heads=6, kv_heads=2),
    Case(keys=1031, places=(700,), window=300, causal=False),
    *(Case(batch=2, position_mode=mode, places=(31, 5), cache_layout=mode % 2) for mode in range(4)),
    Case(batch=3, position_mode=2, places=(0, 76, 33), heads=9, kv_heads=3, merged=False),
]
SPLITS = [
    *(Case(keys=600, places=(place,), splits=4) for place in (0, 63, 127, 128, 255, 256, 300, 511, 599)),
    Case(keys=600, places=(599,), splits=2, heads=10, kv_heads=2, head_dim=32),
    Case(keys=600, places=(590,), splits=5, window=140),
    Case(keys=600, places=(590,), splits=5, window=300, causal=False),
    Case(keys=700, places=(640, 5, 130), splits=6, batch=3, position_mode=2, heads=6, kv_heads=2, normed=True),
    Case(keys=300, places=(299,), splits=3, mask="add", mask_dims="H", heads=2, kv_heads=2, head_dim=32, blind_head=1),
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            Case(keys=1100, places=(1099,), splits=9, heads=8, head_dim=256, normed=True),
            Case(keys=1100, places=(1099,), splits=9, heads=4, kv_heads=2, head_dim=128, dtype=torch.float16),
            Case(keys=5000, places=(4990,), splits=20, heads=2, head_dim=64),
        )
    ),
]


@pytest.mark.parametrize("case", [*HEADS, *ROTATIONS, *RULES, *PLACES, *SPLITS], ids=str)
def test_cases(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("place", [-78, -(2**31), 77, 500])  # -77 is the first place
@pytest.mark.parametrize("causal", [False, True])
def test_a_position_outside_the_cache(place: int, causal: bool) -> None:
    """Nothing is written, and attention sees what it sees at such a position."""
    case = Case(places=(place,), causal=causal, table_rows=1)
    actual = check(case)
    for slot in ("k_cache", "v_cache"):
        assert torch.equal(actual[slot], case.inputs()[slot])


@pytest.mark.parametrize("nan_rows", [False, True])
@pytest.mark.parametrize("mask", ["u8", "add"])
def test_a_row_that_sees_nothing(mask: str, nan_rows: bool) -> None:
    """Zero, as scaled_dot_product_attention, or NaN, as softmax; the other heads are untouched."""
    actual = check(Case(heads=2, kv_heads=2, head_dim=32, mask=mask, mask_dims="H", nan_rows=nan_rows, blind_head=1))
    assert (torch.isnan(actual["y"][:, :, 1]) if nan_rows else actual["y"][:, :, 1] == 0).all()
    assert (actual["y"][:, :, 0] != 0).all()


@pytest.mark.parametrize("case", [Case(keys=2049), Case(heads=9), Case(head_dim=260), Case(head_dim=62)], ids=str)
def test_what_is_left_to_the_separate_kernels(case: Case) -> None:
    with pytest.raises(RuntimeFailure, match="no algorithm for this shape on this device"):
        run_call(KERNEL, case.inputs(), case.outputs(), case.attrs())


@pytest.mark.parametrize("splits", [0, 4])
def test_same_bytes_every_time(splits: int) -> None:
    """Whichever workgroup is the last to arrive."""
    case = Case(keys=501, places=(480,), splits=splits)
    first, *others = (run_call(KERNEL, case.inputs(), case.outputs(), case.attrs())[0] for _ in range(4))
    assert all(torch.equal(first[slot], other[slot]) for other in others for slot in first)


@pytest.mark.parametrize(("place", "are_joined"), [(127, False), (128, True)])
def test_two_tiles_of_keys_stay_with_one_workgroup(place: int, are_joined: bool) -> None:
    """Joining what two workgroups left takes longer than a second tile."""
    case = Case(keys=600, places=(place,), splits=4)
    inputs = case.inputs()
    parts = {"split_sums": OutputSpec(tuple(inputs["split_sums"].shape), torch.float32)}
    actual, _ = run_call(KERNEL, inputs, case.outputs() | parts, case.attrs())
    assert bool(actual["split_sums"].isnan().all()) is not are_joined


MUTATIONS = [
    ("rotary_attention.comp", "is_new ? new_key[quad] : decode(keys_on_way[i])", "decode(keys_on_way[i])", "y"),
    ("rotary_attention.comp", "t == place ? new_value[quad] : values_on_way[i]", "values_on_way[i]", "y"),
    ("rotary_attention.comp", "pool[i] * scale", "pool[i] * (scale + 1)", "y"),
    ("lib/rotary_heads.glsl", "squares[index - lane + i]", "squares[i]", "k_cache"),
    ("rotary_attention.comp", "    sums[r] *= row_change[r];", "", "y"),
    ("rotary_attention.comp", "exp(pool[i].x - most)", "1.0", "y"),
    ("rotary_attention.comp", "if (before_us == int(count) - 1) arrived[head] = 0;", "", "arrived"),
]


@pytest.mark.parametrize(
    ("source", "old", "new", "slot"), MUTATIONS, ids=["key", "value", "scale", "norm", "rescale", "join", "arrived"]
)
def test_a_wrong_shader_is_noticed(source: str, old: str, new: str, slot: str) -> None:
    case = Case(keys=400, places=(390,), heads=2, head_dim=32, normed=True, splits=2)
    inputs = case.inputs()
    library = mutated_library(KERNEL, source, old, new)
    actual, _ = run_call(KERNEL, inputs, case.outputs(), case.attrs(), library=library)
    if slot == "arrived":
        assert actual[slot].any()
        return
    wanted = expected_outputs(KERNEL, inputs, case.outputs(), case.attrs())
    assert not relative_rms(actual[slot], wanted[slot]) <= 100 * tolerance(case)

"""reduce_rows, argmax_rows, cumsum_rows, softmax_rows, rms_norm and layer_norm."""

from __future__ import annotations

import math

import pytest
import torch

from tests.op.cases import Case, check, out, right_or_refused
from tests.op.tolerance import FUNCTION_UNITS, sum_units
from tests.op.values import bools, dense_rows, integers, normal
from zeropoint.kernels._generated.signatures import ArgReduceOp, ReduceOp
from zeropoint.kernels.manifest import MOST_ITERATIONS

FLOAT_DTYPES = [torch.float32, torch.float16]
SHAPES = [(1, 1), (3, 2), (1, 127), (5, 128), (2, 129), (7, 1009), (1, 49157)]


def special_rows(length: int, dtype: torch.dtype) -> torch.Tensor:
    """Ordinary rows, and rows with NaN of both signs, infinities, signed zeros, equal elements and subnormals."""
    rows = normal(11, length, seed=length)
    rows[1, length // 2] = math.nan
    rows[2, 0], rows[2, -1] = torch.tensor([-1], dtype=torch.int32).view(torch.float32)[0], math.inf
    rows[3, length // 3] = math.inf
    rows[4] = -math.inf
    rows[5, -1] = -math.inf
    rows[6] = torch.where(torch.arange(length) % 2 == 0, -0.0, 0.0)
    rows[7] = 3.25
    rows[8] = torch.linspace(-1e-40, 1e-40, length)
    rows[9] = torch.arange(length) % 5
    rows[10] = rows[10] * 100 - 1000
    return rows.to(dtype)


def row_case(kernel: str, x: torch.Tensor, y: torch.dtype, **attrs: float) -> Case:
    return Case(kernel, {"x": x}, out(x.shape[:-1], y), {**dense_rows(x.shape[-1]), **attrs})


def reduce_cases(x: torch.Tensor) -> list[Case]:
    length = x.shape[-1]
    total = x.double().abs().sum(-1)
    cases = []
    for op in ReduceOp:
        case = row_case("reduce_rows", x, x.dtype, op=int(op))
        exact = op in (ReduceOp.AMAX, ReduceOp.AMIN)
        magnitude = None if exact else total if op is ReduceOp.SUM else total / length
        units = 0.0 if exact else sum_units(length)
        cases.append(Case(case.kernel, case.inputs, case.y, case.attrs, units=units, magnitude=magnitude))
    return cases


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_reduce(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = (normal(*shape) * 0.1 + 0.01).to(dtype)
    check(reduce_cases(x))
    check([row_case("argmax_rows", x, torch.int32, op=int(op)) for op in ArgReduceOp])


@pytest.mark.parametrize("length", [1, 5, 128, 300])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_reduce_special_rows(length: int, dtype: torch.dtype) -> None:
    x = special_rows(length, dtype)
    check(reduce_cases(x))
    check([row_case("argmax_rows", x, torch.int32, op=int(op)) for op in ArgReduceOp])


def test_reduce_integers_and_bools() -> None:
    x = integers(7, 1009, low=-(2**20), high=2**20)
    check([row_case("reduce_rows", x, x.dtype, op=int(op)) for op in ReduceOp if op is not ReduceOp.MEAN])
    check([row_case("argmax_rows", x, torch.int32, op=int(op)) for op in ArgReduceOp])
    flags = bools(11, 37)
    flags[0], flags[1] = 0, 1
    flags[2], flags[2, 36] = 0, 1
    anything, everything = check([row_case("reduce_rows", flags, flags.dtype, op=int(op)) for op in ANY_AND_ALL])
    assert torch.equal(anything.bool(), flags.bool().any(-1))
    assert torch.equal(everything.bool(), flags.bool().all(-1))


ANY_AND_ALL = (ReduceOp.AMAX, ReduceOp.AMIN)


def test_argmax_of_equal_elements_is_the_first() -> None:
    x = torch.zeros(3, 1000)
    x[0, 700] = x[0, 130] = x[0, 131] = 2.0
    x[1] = -math.inf
    x[2, 999] = math.nan
    x[2, 500] = math.nan
    (y,) = check([row_case("argmax_rows", x, torch.int32, op=int(ArgReduceOp.ARGMAX))])
    assert y.tolist() == [130, 0, 500]


def cumsum_case(x: torch.Tensor) -> Case:
    attrs, magnitude = dense_rows(x.shape[-1]), x.double().abs().cumsum(-1)
    units = sum_units(x.shape[-1])
    return Case("cumsum_rows", {"x": x}, out(x.shape, x.dtype), attrs, units=units, magnitude=magnitude)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_cumsum(shape: tuple[int, int], dtype: torch.dtype) -> None:
    check([cumsum_case((normal(*shape) * 0.1 + 0.01).to(dtype))])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_cumsum_of_special_rows_starts_where_they_do(dtype: torch.dtype) -> None:
    (y,) = check([cumsum_case(special_rows(300, dtype))])
    assert torch.isfinite(y[1, :150]).all()
    assert torch.isnan(y[1, 150:]).all()


@pytest.mark.parametrize(("n", "refused"), [(16 * MOST_ITERATIONS, False), (16 * 65_536, True)])
def test_cumsum_of_long_rows(n: int, refused: bool) -> None:
    x = integers(1, n, low=-100, high=101)
    right_or_refused(lambda: check([cumsum_case(x)]), refused=refused)


def test_cumsum_of_integers_wraps_around() -> None:
    x = integers(5, 1009, low=-(2**20), high=2**20)
    x[0] = 2**22
    (y,) = check([cumsum_case(x)])
    assert int(y[0].min()) < 0


def softmax_cases(x: torch.Tensor) -> list[Case]:
    length = x.shape[-1]
    result = []
    for logarithm in (0, 1):
        attrs = {**dense_rows(length), "logarithm": logarithm}
        # A rounded x - max moves the exponent by as much as max itself is rounded; the log adds the error of the sum.
        wide = x.double().nan_to_num(0.0, 0.0, 0.0)
        span = wide.abs().amax(-1, keepdim=True) + wide.abs()
        magnitude = torch.softmax(x.double(), -1) * (1 + span) if logarithm == 0 else 1 + span + math.log(length)
        units = FUNCTION_UNITS + sum_units(length)
        result.append(
            Case("softmax_rows", {"x": x}, out(x.shape, x.dtype), attrs, units=units, magnitude=magnitude.nan_to_num())
        )
    return result


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_softmax(shape: tuple[int, int], dtype: torch.dtype) -> None:
    check(softmax_cases((normal(*shape) * 5).to(dtype)))


@pytest.mark.parametrize("length", [1, 5, 128, 300])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_softmax_of_special_rows(length: int, dtype: torch.dtype) -> None:
    check(softmax_cases(special_rows(length, dtype)))


def norm_rows(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Rows of different means and sizes; a constant one and one of zeros when there are enough."""
    x = normal(*shape) * torch.logspace(-2, 2, shape[0]).unsqueeze(1) + torch.linspace(-3, 3, shape[0]).unsqueeze(1)
    if shape[0] > 3:
        x[1], x[2] = 2.5, 0.0
    return x.to(dtype)


def rms_norm_case(x: torch.Tensor, weight: torch.Tensor | None, offset: float) -> Case:
    inputs = {"x": x} if weight is None else {"x": x, "weight": weight}
    wide = x.double()
    plain = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
    magnitude = plain.abs() * (abs(offset) + (0.0 if weight is None else weight.double().abs()))
    attrs = {**dense_rows(x.shape[-1]), "eps": 1e-5, "weight_offset": offset}
    units = FUNCTION_UNITS + sum_units(x.shape[-1])
    return Case("rms_norm", inputs, out(x.shape, x.dtype), attrs, units=units, magnitude=magnitude)


def layer_norm_case(x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> Case:
    given = {"x": x, "weight": weight, "bias": bias}
    wide = x.double()
    deviation = torch.sqrt(wide.var(-1, correction=0, keepdim=True) + 1e-5)
    # The mean is rounded, so an element is off by the row's size against its deviation.
    size = (wide.abs() + wide.abs().mean(-1, keepdim=True)) / deviation
    magnitude = size * (1.0 if weight is None else weight.double().abs())
    magnitude = magnitude + (0.0 if bias is None else bias.double().abs())
    attrs = {**dense_rows(x.shape[-1]), "eps": 1e-5}
    units = FUNCTION_UNITS + sum_units(x.shape[-1])
    inputs = {slot: value for slot, value in given.items() if value is not None}
    return Case("layer_norm", inputs, out(x.shape, x.dtype), attrs, units=units, magnitude=magnitude)


WEIGHTS = [(torch.float32, None), (torch.float32, torch.float32), (torch.float16, None), (torch.float16, torch.float16),
           (torch.float16, torch.float32)]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "disabled"),
    [
        *(pytest.param(shape, "", id=str(shape)) for shape in SHAPES),
        pytest.param((7, 1009), "is_cpu", id="gpu"),
        *(pytest.param(shape, "is_cpu", id=f"gpu-{shape}", marks=pytest.mark.slow) for shape in SHAPES),
    ],
)
@pytest.mark.parametrize("dtypes", WEIGHTS, ids=str)
def test_rms_norm(
    shape: tuple[int, int],
    dtypes: tuple[torch.dtype, torch.dtype | None],
    disabled: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    weight = None if dtypes[1] is None else normal(shape[1], seed=7, dtype=dtypes[1])
    check([rms_norm_case(norm_rows(shape, dtypes[0]), weight, offset) for offset in (0.0, 1.0)])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtypes", "bias"), [*((pair, False) for pair in WEIGHTS), *((pair, True) for pair in WEIGHTS if pair[1])], ids=str
)
def test_layer_norm(shape: tuple[int, int], dtypes: tuple[torch.dtype, torch.dtype | None], bias: bool) -> None:
    weight = None if dtypes[1] is None else normal(shape[1], seed=7, dtype=dtypes[1])
    added = normal(shape[1], seed=8, dtype=dtypes[1] or torch.float32) if bias else None
    check([layer_norm_case(norm_rows(shape, dtypes[0]), weight, added)])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_rows_of_a_slice(dtype: torch.dtype) -> None:
    """Heads of a merged projection: 5 tokens of 3 heads of 64 inside rows of 1000; and the last token's row."""
    x = normal(5, 1000, dtype=dtype)
    heads = {"row_length": 64, "x_offset": 200, "x_inner_rows": 3, "x_outer_stride": 1000, "x_inner_stride": 64}
    last = {"row_length": 1000, "x_offset": 4000, "x_inner_rows": 1, "x_outer_stride": 0, "x_inner_stride": 0}
    wanted = x[:, 200:392].reshape(5, 3, 64).double()
    norm = {**heads, "eps": 1e-6, "weight_offset": 1.0}
    units = FUNCTION_UNITS + sum_units(64)
    cases = [
        Case("rms_norm", {"x": x}, out((5, 3, 64), dtype), norm, units=units),
        Case("argmax_rows", {"x": x}, out((5, 3), torch.int32), {**heads, "op": int(ArgReduceOp.ARGMAX)}),
        Case("argmax_rows", {"x": x}, out((1,), torch.int32), {**last, "op": int(ArgReduceOp.ARGMAX)}),
        Case("reduce_rows", {"x": x}, out((5, 3), dtype), {**heads, "op": int(ReduceOp.AMAX)}),
        Case("cumsum_rows", {"x": x}, out((5, 3, 64), dtype), heads, units=units, magnitude=wanted.abs().cumsum(-1)),
    ]
    results = check(cases)
    assert torch.equal(results[1], wanted.argmax(-1).to(torch.int32))
    assert int(results[2]) == int(x[4].argmax())
    assert torch.equal(results[3].double(), wanted.amax(-1))


def test_many_rows_fold_into_the_grid() -> None:
    x = normal(70_001, 3)
    check([row_case("argmax_rows", x, torch.int32, op=int(ArgReduceOp.ARGMIN)), *softmax_cases(x)[:1], cumsum_case(x)])

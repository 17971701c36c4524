"""elementwise_unary, elementwise_binary, elementwise_compare and where, at every dtype and operator."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests.op.cases import Case, check, out
from tests.op.tolerance import DIVISION_UNITS, FUNCTION_UNITS, POWER_UNITS, ROUNDED_ONCE_UNITS, gelu_tanh_magnitude
from tests.op.values import ALL_HALVES, base, bools, floats, integers, normal, size_attrs, view_attrs
from zeropoint.kernels._generated.signatures import BinaryOp, CompareOp, UnaryOp

EXACT = {UnaryOp.NEG, UnaryOp.ABS, UnaryOp.RELU, UnaryOp.FLOOR, UnaryOp.CEIL, UnaryOp.ROUND, UnaryOp.TRUNC,
         UnaryOp.CLAMP, UnaryOp.CLAMP_MIN, UnaryOp.CLAMP_MAX}  # fmt: skip
ROUNDED_ONCE = {UnaryOp.ADD_SCALAR, UnaryOp.MUL_SCALAR, UnaryOp.RSUB_SCALAR, UnaryOp.SQUARE, UnaryOp.LEAKY_RELU}
EXPONENTS = (0.0, 1.0, 2.0, 3.0, -1.0, -2.0, 0.5, -0.5, 1.7, -3.3, 1e-3, 100.5, 1001.0, -1e9, 3e38)
SHAPES = [(1,), (127,), (128,), (129,), (3, 5, 7, 11), (1, 4099)]
FLOAT_DTYPES = [torch.float32, torch.float16]


def unary_units(op: UnaryOp) -> float:
    if op in EXACT:
        return 0.0
    if op in ROUNDED_ONCE:
        return ROUNDED_ONCE_UNITS
    return POWER_UNITS if op in (UnaryOp.POW_SCALAR, UnaryOp.RPOW_SCALAR) else FUNCTION_UNITS


def unary_case(op: UnaryOp, x: torch.Tensor, alpha: float = 1.5, beta: float = 3.25) -> Case:
    attrs = {"op": int(op), "alpha": alpha, "beta": beta}
    magnitude = gelu_tanh_magnitude(x) if op is UnaryOp.GELU_TANH else None
    return Case("elementwise_unary", {"x": x}, out(x.shape, x.dtype), attrs, units=unary_units(op), magnitude=magnitude)


def test_unary_f32() -> None:
    """Every operator on specials and on random numbers of every magnitude."""
    x = floats(20011)
    check([unary_case(op, x) for op in UnaryOp])


def test_unary_f16_on_every_half() -> None:
    check([unary_case(op, ALL_HALVES) for op in UnaryOp])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_unary_shapes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = normal(*shape, dtype=dtype)
    check([unary_case(UnaryOp.SILU, x), unary_case(UnaryOp.NEG, x)])


def test_power_of_a_scalar_exponent() -> None:
    near_one = 1 + normal(4096, seed=1) * 1e-3
    check([unary_case(UnaryOp.POW_SCALAR, x, alpha) for x in (floats(8009), near_one) for alpha in EXPONENTS])


def test_power_of_a_scalar_base() -> None:
    x = floats(4001)
    x = torch.cat([x, x.round()])
    bases = (0.0, 1.0, 2.0, 10000.0, 0.5, 1e-30, -2.0, 1.0000001)
    check([unary_case(UnaryOp.RPOW_SCALAR, x, alpha) for alpha in bases])


def test_near_zero_and_one() -> None:
    """Where e^x - 1 and log(1 + x) by themselves would cancel: magnitudes down to subnormals, and 1 + x near 0."""
    small = torch.exp2(torch.linspace(-140, 1, 20_011)) * torch.where(torch.arange(20_011) % 2 == 0, 1.0, -1.0)
    x = torch.cat((small, -1 + small.abs() * 0.5, torch.linspace(-30, 30, 20_011)))
    check([unary_case(op, x) for op in (UnaryOp.EXPM1, UnaryOp.LOG1P)])


def test_angles_near_multiples_of_half_pi() -> None:
    """The worst case of range reduction: the result is what is left after almost everything cancels."""
    multiples = (torch.arange(1, 30011, dtype=torch.float64) * (math.pi / 2)).float()
    large = floats(30011, seed=5).abs()
    large = large[torch.isfinite(large)]
    check([unary_case(op, x) for op in (UnaryOp.SIN, UnaryOp.COS) for x in (multiples, -multiples, large)])


def test_clamp_with_crossed_limits() -> None:
    check([unary_case(UnaryOp.CLAMP, floats(257), 2.0, -1.0)])


def test_many_elements_fold_into_the_grid() -> None:
    """More workgroups than one dispatch dimension may hold on a minimal device."""
    check([unary_case(UnaryOp.NEG, normal(65_536 * 128 + 77))])


def test_nothing_to_do() -> None:
    """An empty tensor among others is no error."""
    check([unary_case(UnaryOp.EXP, torch.empty(0, 7)), unary_case(UnaryOp.EXP, torch.ones(3))])


FLOAT_OPS = [BinaryOp.ADD, BinaryOp.SUB, BinaryOp.MUL, BinaryOp.DIV, BinaryOp.MINIMUM, BinaryOp.MAXIMUM, BinaryOp.POW,
             BinaryOp.TRUNC_DIVIDE]  # fmt: skip
INTEGER_OPS = [op for op in BinaryOp if op not in (BinaryOp.DIV, BinaryOp.POW)]
UNITS = {
    BinaryOp.MUL: ROUNDED_ONCE_UNITS,
    BinaryOp.DIV: DIVISION_UNITS,
    BinaryOp.POW: POWER_UNITS,
    BinaryOp.MINIMUM: 0.0,
    BinaryOp.MAXIMUM: 0.0,
    BinaryOp.TRUNC_DIVIDE: 0.0,
}


def pair_case(kernel: str, op: int, a: torch.Tensor, b: torch.Tensor, **more: float) -> Case:
    """a and b broadcast; they may be views of larger tensors, which are what the slots hold."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    dtype = torch.uint8 if kernel == "elementwise_compare" else a.dtype
    attrs = {"op": op, **more, **size_attrs(shape)}
    attrs |= view_attrs("a", a.expand(shape)) | view_attrs("b", b.expand(shape))
    return Case(kernel, {"a": base(a), "b": base(b)}, out(shape, dtype), attrs)


def float_case(op: BinaryOp, a: torch.Tensor, b: torch.Tensor, alpha: float = 1.0) -> Case:
    case = pair_case("elementwise_binary", int(op), a, b, alpha=alpha)
    if op not in (BinaryOp.ADD, BinaryOp.SUB):
        return dataclasses.replace(case, units=UNITS[op])
    shape = case.y.shape
    magnitude = a.double().abs().expand(shape) + abs(alpha) * b.double().abs().expand(shape)
    return dataclasses.replace(case, units=2.0, magnitude=magnitude)


def without_subnormals(x: torch.Tensor) -> torch.Tensor:
    """Vulkan lets a device read subnormal operands of arithmetic as 0; what these give is not promised."""
    return torch.where(x.abs() < torch.finfo(torch.float32).smallest_normal, torch.zeros_like(x), x)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_binary_floats(dtype: torch.dtype) -> None:
    """Every pair of specials, and random pairs."""
    special = without_subnormals(floats(60, dtype=dtype))
    a, b = (without_subnormals(floats(8009, seed=seed, dtype=dtype)) for seed in (1, 2))
    b = b.flip(0)
    cases = [float_case(op, x, y) for op in FLOAT_OPS for x, y in ((a, b), (special.unsqueeze(1), special))]
    check([*cases, float_case(BinaryOp.ADD, a, b, 0.3), float_case(BinaryOp.SUB, a, b, -2.5)])


def test_binary_integers() -> None:
    edge = torch.tensor([0, 1, -1, 2, -2, 7, -7, 2**31 - 1, -(2**31) + 1, 65536, 46341, -46341], dtype=torch.int32)
    a, b = integers(4099, seed=1), integers(4099, low=-9, high=9, seed=2)
    pairs = ((a, b), (edge.unsqueeze(1), edge))
    check([pair_case("elementwise_binary", int(op), x, y, alpha=1.0) for op in INTEGER_OPS for x, y in pairs])
    check([pair_case("elementwise_binary", int(op), a, b, alpha=3.0) for op in (BinaryOp.ADD, BinaryOp.SUB)])


def strided_pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Operands that broadcast, are permuted, sliced, or both."""
    big = normal(6, 7, 10, 13, seed=3)
    return [
        (normal(5, 1, 7, 1, seed=1), normal(3, 1, 11, seed=2)),
        (normal(1, seed=1), normal(4, 5, seed=2)),
        (big.permute(3, 1, 0, 2), normal(13, 7, 6, 10, seed=4)),
        (big[1:5, 2:, ::3, 4], big[2:6, :5, 1:5, 7]),
        (normal(129, seed=5), normal(129, seed=6)),
        (normal(2, 3, 5, 64, seed=5), normal(64, seed=6)),
    ]


@pytest.mark.parametrize("pair", range(6))
def test_broadcast_and_strided_operands(pair: int) -> None:
    a, b = strided_pairs()[pair]
    condition = bools(*torch.broadcast_shapes(a.shape, b.shape)[-1:], seed=9)
    subtract, less, choose = check([
        float_case(BinaryOp.SUB, a, b),
        pair_case("elementwise_compare", int(CompareOp.LT), a, b),
        where_case(condition, a, b),
    ])  # fmt: skip
    assert torch.equal(subtract, a - b)
    assert torch.equal(less.bool(), a < b)
    assert torch.equal(choose, torch.where(condition.bool(), a, b))


def test_operands_that_both_run_backwards() -> None:
    """Neighbours by -1: dense rows, but not one after the other."""
    a, b = normal(5, 64, seed=1), normal(5, 64, seed=2)
    case = float_case(BinaryOp.ADD, a, b)
    backwards = {f"{slot}_{name}": value for slot in "ab" for name, value in (("offset", 63), ("stride3", -1))}
    (y,) = check([dataclasses.replace(case, attrs={**case.attrs, **backwards}, magnitude=case.magnitude.flip(-1))])
    assert torch.equal(y, (a + b).flip(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32], ids=str)
def test_many_elements(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several an invocation, beyond the last one's end: dense operands, and a row for all."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    a, b = (integers(257, 1027, low=-9, high=9, seed=seed).to(dtype) for seed in (1, 2))
    cases = [pair_case("elementwise_binary", int(BinaryOp.SUB), a, other, alpha=2.0) for other in (b, b[3])]
    for y, other in zip(check([dataclasses.replace(case, algorithm="many") for case in cases]), (b, b[3]), strict=True):
        assert torch.equal(y, a - 2 * other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.uint8], ids=str)
def test_compare(dtype: torch.dtype) -> None:
    """Every pair of specials: NaN is unordered and true, a subnormal is true and -0 is 0."""
    if dtype.is_floating_point:
        a = floats(60, dtype=dtype)
    else:
        wide = [-1, -(2**31), 2**31 - 1] if dtype == torch.int32 else []
        a = torch.tensor([0, 1, 2, 127, 128, 255, *wide]).to(dtype)
    check([pair_case("elementwise_compare", int(op), a.unsqueeze(1), a) for op in CompareOp])
    results = check([pair_case("elementwise_compare", int(op), a, a) for op in CompareOp])
    assert torch.equal(results[CompareOp.LOGICAL_NAND].bool(), ~a.bool())
    assert torch.equal(results[CompareOp.LOGICAL_OR].bool(), a.bool())


def where_case(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Case:
    shape = torch.broadcast_shapes(condition.shape, a.shape, b.shape)
    attrs = size_attrs(shape) | view_attrs("condition", condition.expand(shape))
    attrs |= view_attrs("a", a.expand(shape)) | view_attrs("b", b.expand(shape))
    return Case("where", {"condition": base(condition), "a": base(a), "b": base(b)}, out(shape, a.dtype), attrs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.uint8], ids=str)
def test_where(dtype: torch.dtype) -> None:
    """Bits survive: NaN, infinities, subnormals, and a masked fill with -inf."""
    if dtype.is_floating_point:
        a, b = floats(4099, seed=1, dtype=dtype), floats(4099, seed=2, dtype=dtype).flip(0)
        fill = torch.tensor([-math.inf], dtype=dtype)
    else:
        a, b = (integers(4099, low=0, high=256, seed=seed).to(dtype) for seed in (1, 2))
        fill = torch.tensor([3], dtype=dtype)
    condition = bools(4099)
    check([where_case(condition, a, b), where_case(condition, a, fill), where_case(bools(11, 1), a, b)])

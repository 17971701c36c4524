"""Element-wise operators against eager PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.export import Dim
from torch.nn import functional

from tests.unit.rules.general import check, refusals

SPECIAL = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 3.5, math.inf, -math.inf, math.nan, 1e-3])


def test_functions_of_one_operand() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        functions = [
            torch.neg,
            torch.abs,
            torch.relu,
            torch.sigmoid,
            torch.tanh,
            functional.silu,
            torch.exp,
            torch.sin,
            torch.cos,
            torch.erf,
            torch.floor,
            torch.ceil,
            torch.round,
            torch.trunc,
            torch.square,
            functional.gelu,
            torch.reciprocal,
            torch.expm1,
        ]
        more = [
            functional.gelu(x, approximate="tanh"),
            functional.leaky_relu(x, 0.2),
            functional.hardtanh(x),
            functional.relu6(x),
        ]
        return [function(x) for function in functions] + more

    check(forward, torch.cat((torch.randn(13), torch.tensor([0.5, 1.5, -1.5]))).reshape(4, 4))


def test_functions_of_positive_operands() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        return [
            torch.log(x),
            torch.log1p(x),
            torch.sqrt(x),
            torch.rsqrt(x),
            x**2,
            x**0.5,
            x**-0.5,
            x**-1,
            x**3.5,
            2.0**x,
        ]

    check(forward, torch.rand(3, 5) + 0.2)


def test_special_values() -> None:
    def forward(x: Tensor, y: Tensor) -> list[Tensor]:
        return [
            torch.neg(x),
            torch.abs(x),
            torch.relu(x),
            torch.sigmoid(x),
            torch.tanh(x),
            torch.exp(x),
            torch.floor(x),
            torch.round(x),
            x.clamp(-2, 2),
            x.clamp(min=0),
            x + y,
            x * y,
            x / y,
            torch.maximum(x, y),
            torch.minimum(x, y),
            x**2,
            torch.isnan(x),
            torch.isinf(x),
            x == y,
            x != y,
            x < y,
            x >= y,
            torch.logical_not(x),
            torch.logical_and(x, y),
            x.to(torch.bool),
        ]

    check(forward, SPECIAL, SPECIAL.flip(0))


def test_functions_of_integers() -> None:
    def forward(x: Tensor, y: Tensor) -> list[Tensor]:
        return [
            -x,
            torch.abs(x),
            torch.relu(x),
            torch.square(x),
            x**2,
            torch.floor(x),
            torch.exp(x),
            torch.sqrt(x * x),
            torch.sigmoid(x),
            torch.reciprocal(y),
            x.clamp(-2, 3),
            x.clamp(max=1),
            torch.bitwise_not(x),
            x / y,
            x + 2 * y,
            x - 5,
            7 - x,
            x * 3,
            x // y,
            x % y,
            torch.div(x, y, rounding_mode="trunc"),
            x & 3,
            x | y,
            x ^ y,
            torch.minimum(x, y),
            torch.maximum(x, y),
            torch.add(x, y, alpha=-3),
            torch.isnan(x),
            torch.isinf(x),
            x + 40000 * y,
        ]

    for dtype in (torch.int64, torch.int32):
        check(forward, torch.randint(-9, 9, (3, 4), dtype=dtype), torch.tensor([-3, 2, 5, -1], dtype=dtype), half=False)


def test_numbers() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        return [
            x + 1.5,
            x - 2,
            3 - x,
            x * -0.25,
            x / 3,
            torch.add(x, 2, alpha=3),
            torch.sub(x, 2, alpha=3),
            torch.rsub(x, 2, alpha=3),
            x + math.inf,
            x * True,
            x.t() * 2.0,
            x[:, 1:] + 0.5,
        ]

    check(forward, torch.randn(3, 5))


def test_numbers_beyond_a_float() -> None:
    check(lambda x: (x + 1e300, x * 1e39, x - math.inf), torch.randn(5), half=False, dialects=("aten",))


def test_broadcasting_and_promotion() -> None:
    def forward(x: Tensor, y: Tensor, i: Tensor, b: Tensor) -> list[Tensor]:
        return [
            x + y,
            y - x,
            x * i,
            i + b,
            x * b,
            i / 2,
            i * 1.5,
            b + 1,
            torch.where(b, x, i),
            x > i,
            i == 1.0,
            b == 1,
            x + torch.tensor(2.0),
            i + torch.tensor(1.5),
            torch.maximum(i, b.long()),
        ]

    inputs = (torch.randn(2, 1, 5), torch.randn(3, 1), torch.randint(-3, 3, (3, 5)), torch.rand(3, 5) > 0.5)
    check(forward, *inputs)


def test_halves() -> None:
    def forward(x: Tensor, y: Tensor) -> list[Tensor]:
        return [x + y, x * 0.125, x.float() + y, (x + 1).to(torch.bfloat16), torch.sigmoid(x), x > 0.25]

    check(forward, torch.randn(3, 5).half(), torch.randn(5).half(), half=False)
    check(lambda x: x * 0.1, torch.randn(3, 5).half(), half=False, dialects=("aten",))  # edge rounds the number itself


def test_more_than_four_dimensions() -> None:
    def forward(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
        return [
            x + x.permute(4, 3, 2, 1, 0).reshape(x.shape),
            x * y,
            x + z,
            (x.transpose(0, 4) + 1) * x.transpose(0, 4),
            torch.where(y > 0, x, 0.0),
        ]

    check(forward, torch.randn(2, 3, 2, 3, 2), torch.randn(1, 3, 1, 3, 1), torch.randn(2, 1, 2, 1, 2))


def test_dynamic_sizes() -> None:
    size = Dim("size", min=1, max=16)

    def forward(x: Tensor, y: Tensor) -> list[Tensor]:
        n = x.shape[1]
        return [x + y, x.transpose(0, 1) * 2.0 + n, x.sum() + torch.full((n,), 2) * n, (x * n).clamp(max=y)]

    check(
        forward, torch.randn(2, 5), torch.randn(1, 5), dynamic_shapes=({1: size}, {1: size}),
        calls=[(torch.randn(2, n), torch.randn(1, n)) for n in (1, 16)],
    )  # fmt: skip


def test_rounded_divisions_of_floats() -> None:
    def forward(x: Tensor, y: Tensor) -> list[Tensor]:
        return [torch.div(x, 2, rounding_mode="floor"), x // 0.25, torch.div(x, y, rounding_mode="trunc")]

    check(forward, torch.tensor([3.0, -3.0, 0.3, -0.3, 7.9]), torch.tensor([2.0, -1.7, 0.1, 0.1, -3.3]))
    check(forward, SPECIAL, SPECIAL.flip(0))


def test_a_rounded_quotient_that_is_an_integer() -> None:
    """Truncated in one kernel: a quotient off by a unit would lose a whole one."""
    result = check(lambda x, y: torch.div(x, y, rounding_mode="trunc"), torch.tensor([6.0, 5.0]), torch.ones(2),
                   half=False)  # fmt: skip
    assert result.kernels() == ["elementwise_binary"]


def test_bools() -> None:
    def forward(a: Tensor, b: Tensor) -> list[Tensor]:
        return [
            a & b,
            a | b,
            a ^ b,
            ~a,
            a * b,
            a + b,
            torch.logical_xor(a, b),
            torch.logical_or(a, b.float()),
            a == b,
            torch.maximum(a, b),
            a.masked_fill(b, True),
            a.float(),
            b.long() * 3,
            torch.where(a, b, ~b),
        ]

    check(forward, torch.rand(3, 5) > 0.5, torch.rand(5) > 0.5, half=False)


def test_where_and_masks() -> None:
    def forward(x: Tensor, mask: Tensor, i: Tensor) -> list[Tensor]:
        return [
            x.masked_fill(mask, -math.inf),
            x.masked_fill(mask, torch.tensor(2.0)),
            torch.where(mask, 1.0, 0.0),
            torch.where(mask, x, torch.finfo(torch.float32).min),
            torch.where(mask, 2, i),
            x.tril(),
            x.triu(1),
            torch.ones(4, 5, dtype=torch.bool).tril(-1),
            i.tril(1),
        ]

    check(forward, torch.randn(2, 4, 5), torch.rand(4, 5) > 0.5, torch.randint(0, 9, (4, 5)), half=False)


def test_a_lowest_float_stays_finite_in_half_storage() -> None:
    x, mask = torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool)
    result = check(lambda x, m: torch.softmax(x.masked_fill(m, torch.finfo(torch.float32).min), -1), x, mask)
    assert result.kernels()[0] == "where"


def test_casts() -> None:
    def forward(x: Tensor, i: Tensor) -> list[Tensor]:
        return [
            x.int(),
            x.long() + 1,
            x.to(torch.int8),
            x.bool(),
            x.half().float(),
            i.float(),
            i.to(torch.int8),
            i.bool(),
            i.to(torch.uint8).bool(),
            i.to(torch.int8).bool(),
            x.type_as(i),
            x + 0,
            i.to(torch.int8) > 3,
        ]

    check(forward, torch.randn(3, 4) * 4, torch.randint(0, 99, (3, 4)), half=False)


def test_bfloat16_is_computed_as_float() -> None:
    result = check(lambda x: (x.to(torch.bfloat16) * 1.0).float(), torch.tensor([1.0, 2.5, -3.0]), half=False)
    assert result.kernels() == ["elementwise_unary"]


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (lambda x: torch.round(x, decimals=2), (torch.randn(3),), "no rule for aten.round.decimals"),
        (lambda x: x // 3.0, (torch.randn(3),), "rounded down, by 3.0; offered powers of two, and integers"),
        (lambda x: x % 3.0, (torch.randn(3),), "of floats; offered integers"),
        (lambda x: x**3, (torch.arange(3),), "aten.pow.Tensor_Scalar of integers; offered floating point"),
        (lambda x: x + x, (torch.arange(3, dtype=torch.int8),), "elementwise_binary of i8; offered f32, f16, i32"),
        (lambda x: torch.where(x > 1, x, x), (torch.arange(3, dtype=torch.int8),), "where of i8; offered"),
        (lambda x: x > 2**40, (torch.arange(3),), "number 1099511627776 of i32; offered integers from -2147483648"),
        (lambda x: x > 300, (torch.arange(3, dtype=torch.int8),), "number 300 of i8; offered integers from -128"),
        (lambda x: torch.add(x, 1.0, alpha=math.inf), (torch.randn(3),), "scalar inf; need a finite number"),
        (lambda x: torch.add(x, x, alpha=2**25), (torch.arange(3),), "alpha 33554432.0 of integers; need an integer"),
        (lambda x: x.double() + 1, (torch.randn(3),), "torch.float64; offered float32, float16, bfloat16"),
        (lambda x: x - 1 > 0.5, (torch.arange(3, dtype=torch.uint8),), "elementwise_binary of u8"),
    ],
)  # fmt: skip
def test_refusals(function: object, inputs: tuple[Tensor, ...], reason: str) -> None:
    assert callable(function)
    assert any(reason in text for text in refusals(function, *inputs)), refusals(function, *inputs)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x * (x.shape[1] * 0.5), "need a tensor, a number or a size"),
        (lambda x: x.tril(x.shape[1]), "aten.tril.default of diagonal "),
        (
            lambda x: torch.full((2,), x.shape[1], dtype=torch.uint8) + x[:, 0].int(),
            "arange of u8; offered i32, f32, f16",
        ),
    ],
)
def test_refusals_of_traced_sizes(function: object, reason: str) -> None:
    assert callable(function)
    found = refusals(function, torch.randn(2, 5), dynamic_shapes=({1: Dim("size", min=2, max=9)},))
    assert any(reason in text for text in found), found

"""cat, stack, repeats, flips, padding and new tensors against eager PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.export import Dim
from torch.nn import functional

from tests.e2e.running import Direct
from tests.unit.rules.general import Function, check, refusals
from tests.unit.rules.lowered import export


def test_joins() -> None:
    def forward(x: Tensor, y: Tensor, i: Tensor) -> list[Tensor]:
        return [torch.cat([x, y, x], 1), torch.cat([x, x.flip(0)], -1), torch.stack([x, x + 1], 1),
                torch.stack([x, x], -1), torch.cat([x[:, 1:], -x[:, :1]], 1), torch.cat([x, i], 0), torch.cat([y]),
                torch.stack([y, y]), torch.cat([torch.zeros(0), x[0, 0]])]  # fmt: skip

    check(forward, torch.randn(2, 3, 4), torch.randn(2, 1, 4), torch.randint(0, 9, (2, 3, 4)))


def test_joins_of_integers_and_bools() -> None:
    def forward(i: Tensor, b: Tensor) -> list[Tensor]:
        return [torch.cat([i, i]), torch.cat([b, ~b], 1), torch.cat([i, b]), torch.cat([i.to(torch.int8)] * 2).long()]

    check(forward, torch.randint(0, 9, (2, 3)), torch.rand(2, 3) > 0.5, half=False)


def test_repeats() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        return [x.repeat(2, 1, 3), x.repeat(2, 1, 1, 1), x[:, :1].repeat(1, 4, 1) * 2.0, x.repeat_interleave(2, 1),
                x.repeat_interleave(3, -1), x.repeat_interleave(2), x.flip(0, 2), x.flip(-1) + 1]  # fmt: skip

    check(forward, torch.randn(2, 3, 4))


def test_a_flip_without_dimensions() -> None:
    check(lambda x: x.flip(-1) + 1, torch.tensor(2.5))


def test_nothing_joined_with_nothing() -> None:
    """The player refuses an output that no call writes."""
    x = torch.empty(0, 5)
    program = export(Function(lambda x: (torch.cat([x, x], 1), torch.cat([x, x]).sum(0))), (x,), "aten")
    joined, total = Direct(program)(x)
    assert joined.shape == (0, 10)
    assert torch.equal(total, torch.zeros(5))


def test_repeats_of_one_cost_nothing() -> None:
    assert check(lambda x: x.repeat(1, 5, 1) * x, torch.randn(2, 1, 3)).kernels() == ["elementwise_binary"]


def test_new_tensors() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        return [torch.full((2, 3), 1.5), torch.zeros(3) + x, torch.ones_like(x), torch.zeros_like(x, dtype=torch.int64),
                torch.full((), -math.inf) + x, torch.full_like(x, 2.0), x.new_zeros(2), x.new_ones(2),
                x.new_full((2,), 3), torch.ones(2, dtype=torch.bool), torch.full((3,), 7),
                torch.scalar_tensor(2.0) * x, torch.arange(5), torch.arange(2, 9, 3), torch.arange(3.0),
                torch.arange(5, -5, -2), torch.arange(2) + x[:, :2].long(), torch.full((2,), math.nan), torch.fill(x,
                4.0)]  # fmt: skip

    check(forward, torch.randn(2, 3))


def test_padding() -> None:
    def forward(x: Tensor, i: Tensor, b: Tensor) -> list[Tensor]:
        return [functional.pad(x, (1, 2, 0, 1), value=-1.0), functional.pad(x, (0, 0, 2, 0)),
                functional.pad(x, (-1, 1)), functional.pad(x, (1, 1), value=-math.inf), functional.pad(i, (2, 1),
                value=7), functional.pad(b, (0, 3), value=True), functional.pad(x.transpose(0, 2), (1, 0, 0, 1)),
                functional.pad(x[:, None, None, :, None], (0, 0, 1, 2), value=3.0),
                functional.pad(i.to(torch.int8), (1, 1)).long()]  # fmt: skip

    check(forward, torch.randn(2, 3, 4), torch.randint(0, 9, (3,)), torch.rand(2, 2) > 0.5)


def test_dynamic_sizes() -> None:
    length = Dim("length", min=1, max=9)

    def forward(x: Tensor) -> list[Tensor]:
        n = x.shape[1]
        return [torch.cat([x, x * 2.0], 1), torch.cat([torch.zeros(2, 3), x], 1), x.repeat(1, 2),
                x.repeat_interleave(2, 1), torch.arange(n) + 1, torch.arange(n, n + 4), torch.full((n, 2), 0.5),
                torch.ones(2, n).tril(), functional.pad(x, (1, 2)), x.flip(1), torch.stack([x, x]), torch.full((2,),
                n), torch.zeros(n, n).tril() + torch.ones(n, n).triu(1), torch.arange(n,
                dtype=torch.float32)]  # fmt: skip

    check(
        forward, torch.randn(2, 5), dynamic_shapes=({1: length},),
        calls=[(torch.randn(2, n),) for n in (1, 9)],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("function", "x", "reason"),
    [
        (lambda x: torch.arange(0, 1, 0.25) + x, torch.ones(4), "arange from or by 0.25; need integers"),
        (lambda x: torch.arange(4, dtype=torch.int8) + x, torch.ones(4), "arange of i8; offered i32, f32, f16"),
        (lambda x: functional.pad(x[None, None, None], (-1, 2)), torch.ones(2, 3),
         "aten.pad.default of 5 dimensions by [-1, 2]; offered 4"),
    ],
)  # fmt: skip
def test_refusals(function: object, x: Tensor, reason: str) -> None:
    assert callable(function)
    found = refusals(function, x)
    assert any(reason in text for text in found), found


def test_refusal_of_other_borders() -> None:
    found = refusals(lambda x: functional.pad(x, (1, 1), mode="reflect"), torch.randn(2, 3))
    assert any("aten.pad.default in mode reflect; offered constant" in text for text in found), found

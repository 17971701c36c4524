"""Softmax, reductions and normalizations against eager PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from tests.unit.rules.general import check, refusals


def test_softmax() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        return [x.softmax(-1), x.softmax(1), x.softmax(0), x.log_softmax(-1), x.log_softmax(1),
                x[:, :, 1:5].softmax(-1), x.transpose(0, 1).softmax(-1), x[0, 0].softmax(0),
                x.softmax(1).softmax(1)]  # fmt: skip

    check(forward, torch.randn(2, 3, 7))
    check(lambda x: (x.softmax(0), x.log_softmax(-1)), torch.tensor(1.5))


def test_softmax_of_halves() -> None:
    result = check(lambda x: torch.softmax(x, -1, dtype=torch.float32), torch.randn(3, 5).half(), half=False)
    assert result.kernels() == ["strided_copy", "softmax_rows"]


def test_cumsum() -> None:
    def forward(x: Tensor, i: Tensor, b: Tensor) -> list[Tensor]:
        return [x.cumsum(-1), x.cumsum(0), x.cumsum(-2), x[:, :, 1:5].cumsum(-1), x.transpose(0, 1).cumsum(2),
                x.cumsum(1).cumsum(1), x[0, 0].cumsum(0), i.cumsum(1), i.to(torch.int8).cumsum(0), b.cumsum(-1),
                i.cumsum(-1, dtype=torch.int32), i.cumsum(0, dtype=torch.float32), b.long().cumsum(-1) - 1]  # fmt: skip

    check(forward, torch.randn(2, 3, 7), torch.randint(-5, 5, (4, 5)), torch.rand(3, 4) > 0.4)
    check(lambda x: x.cumsum(0), torch.tensor(1.5))


def test_rows_in_slices_cost_nothing() -> None:
    """Heads of a merged projection are rows of two levels."""
    result = check(lambda x: x[:, :, 4:8].view(2, 3, 2, 2).transpose(1, 2)[:1].softmax(-1), torch.randn(2, 3, 12))
    assert result.kernels() == ["softmax_rows"]


def test_reductions() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        found = [x.sum(1), x.sum(), x.sum((0, 2)), x.mean(-1, keepdim=True), x.mean((0, 1)), x.mean(), x.amax((0, 2)),
                 x.amax(1, keepdim=True), x.amin(-1), x.amin((-1, -2), keepdim=True), x.amax(), x.max(), x.min(),
                 x.transpose(0, 2).sum(-1), x[:, 1:, ::2].mean(-1), x.expand(2, 2, 3, 7).sum(1)]  # fmt: skip
        return found

    check(forward, torch.randn(2, 3, 7))
    check(lambda x: (x.sum(), x.mean(0), x.amax()), torch.tensor(1.5))


def test_reductions_of_integers_and_bools() -> None:
    def forward(x: Tensor, b: Tensor) -> list[Tensor]:
        return [x.sum(-1), x.sum(dtype=torch.float32), x.amax(0), x.amin(), x.float().mean(), b.any(-1), b.all(0),
                b.any(), b.all(), x.any(-1), x.float().all(-1), b.sum(1), b.sum(), b.amax(1), (x > 3).any(0,
                keepdim=True), x.to(torch.int8).any(), x.max(), x.to(torch.int8).sum(0)]  # fmt: skip

    check(forward, torch.randint(-5, 5, (4, 5)), torch.rand(3, 4) > 0.4, half=False)


def test_special_values() -> None:
    x = torch.tensor([[1.0, math.nan, -1.0], [math.inf, 1.0, 2.0], [-math.inf, 0.0, -0.0], [-math.inf] * 3])
    check(lambda x: (x.amax(-1), x.amin(-1), x.sum(-1), x.argmax(-1), x.argmin(-1), x.softmax(-1)), x)


def test_argmax() -> None:
    def forward(x: Tensor, i: Tensor) -> list[Tensor]:
        return [x.argmax(-1), x.argmin(1, keepdim=True), x.argmax(), x.argmin(0), i.argmax(-1),
                i.to(torch.int8).argmin(0), *x.max(1), *x.min(-1, keepdim=True), x.max(0).values, i.max(-1).indices,
                i.min(0).values]  # fmt: skip

    check(forward, torch.randn(2, 3, 7), torch.randint(-9, 9, (4, 5)), half=False)


def test_layer_norm() -> None:
    def forward(x: Tensor, w: Tensor, b: Tensor) -> list[Tensor]:
        return [functional.layer_norm(x, (7,), w, b), functional.layer_norm(x, (3, 7)),
                functional.layer_norm(x, (7,), w), functional.layer_norm(x, (7,), None, b, 1e-3),
                functional.layer_norm(x.transpose(0, 1), (7,), w, b), functional.layer_norm(x, (3, 7),
                w[:3, None] * w)]  # fmt: skip

    check(forward, torch.randn(2, 3, 7), torch.randn(7), torch.randn(7))


def test_layer_norm_of_a_model() -> None:
    module = nn.Sequential(nn.LayerNorm(5), nn.LayerNorm(5, elementwise_affine=False)).eval()
    assert check(module, torch.randn(2, 5)).kernels() == ["layer_norm", "layer_norm"]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)], ids=str)
def test_rows_of_nothing(shape: tuple[int, int]) -> None:
    """A grid is numbers divided by the row's length."""

    def forward(x: Tensor) -> list[Tensor]:
        return [x.softmax(0), x.log_softmax(1), functional.layer_norm(x, shape[1:]), x.sum(0), x.sum(1), x.sum(),
                x.cumsum(0), x.cumsum(1)]  # fmt: skip

    result = check(forward, torch.empty(shape))
    assert set(result.kernels()) <= {"reduce_rows", "strided_copy"}


def test_dynamic_sizes() -> None:
    batch, length = Dim("batch", min=1, max=4), Dim("length", min=1, max=9)

    def forward(x: Tensor) -> list[Tensor]:
        return [x.softmax(-1), x.softmax(1), x.sum(1), x.sum(), x.mean((0, 1)), x.amax(-1), x.argmax(1), x.argmax(),
                functional.layer_norm(x, (6,)), x.transpose(1, 2).softmax(-1), (x > 0).any(1),
                x.cumsum(0), x.cumsum(1)]  # fmt: skip

    check(
        forward, torch.randn(2, 5, 6), dynamic_shapes=({0: batch, 1: length},),
        calls=[(torch.randn(b, n, 6),) for b, n in ((1, 2), (4, 9), (2, 1))],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("function", "x", "reason"),
    [
        (lambda x: torch.amax(x, 0), torch.ones(3, dtype=torch.int8), "reduce_rows of i8; offered f32, f16, i32, u8"),
        (lambda x: torch.cumsum(x, 0, dtype=torch.int8), torch.ones(3, dtype=torch.int8),
         "cumsum_rows of i8; offered f32, f16, i32"),
        (lambda x: torch.any(x), torch.ones(3, dtype=torch.uint8), "aten.any.default of torch.uint8; offered bools"),
        (lambda x: torch.native_layer_norm(x, (3,), None, None, 1e-5)[:2], torch.ones(2, 3),
         "result 1 of aten.native_layer_norm.default; offered 0, the normalized tensor"),
        (lambda x: torch.softmax(x, -1), torch.ones(3, dtype=torch.float64), "torch.float64; offered float32"),
        (lambda x: torch.tan(x), torch.ones(3), "no rule for aten.tan.default"),
    ],
)  # fmt: skip
def test_refusals(function: object, x: Tensor, reason: str) -> None:
    assert callable(function)
    found = refusals(function, x)
    assert any(reason in text for text in found), found

"""Convolutions as products: of one dimension, and patches of images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.unit.rules.general import check, refusals


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 4, "dilation": 2, "padding": 3},
        {"kernel_size": 1},
    ],
    ids=str,
)
def test_one_dimension(options: dict[str, object]) -> None:
    convolution = nn.Conv1d(5, 7, **options)
    result = check(convolution, torch.randn(2, 5, 11))
    assert result.kernels("edge").count("matmul") == 1


def test_of_any_length() -> None:
    shapes = ({2: torch.export.Dim("n", min=4, max=32)},)
    convolution = nn.Conv1d(3, 4, kernel_size=3, padding=1)
    check(convolution, torch.randn(1, 3, 9), dynamic_shapes=shapes, calls=[(torch.randn(1, 3, 20),)])


@pytest.mark.parametrize("size", [(16, 24), (17, 31)])
def test_patches(size: tuple[int, int]) -> None:
    convolution = nn.Conv2d(3, 10, kernel_size=(8, 4), stride=(8, 4))
    result = check(convolution, torch.randn(2, 3, *size))
    assert result.kernels("edge").count("matmul") == 1


@pytest.mark.parametrize(
    ("convolution", "reason"),
    [
        (nn.Conv2d(4, 4, 3), "offered those of one dimension, and patches"),
        (nn.Conv2d(4, 4, 2, stride=2, padding=1), "offered those of one dimension, and patches"),
        (nn.Conv2d(4, 4, 2, stride=2, groups=2), "2 groups; offered plain"),
        (nn.ConvTranspose2d(4, 4, 2, stride=2), "a transposed convolution"),
    ],
    ids=str,
)
def test_others_stay_outside(convolution: nn.Module, reason: str) -> None:
    reasons = refusals(convolution, torch.randn(1, 4, 8, 8), dialect="edge")
    assert len([text for text in reasons if reason in text]) == 1

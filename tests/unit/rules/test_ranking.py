"""topk: which elements, in which order."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.unit.rules.general import Function, check, refusals
from tests.unit.rules.lowered import export
from zeropoint import CompileOptions
from zeropoint.export.preprocess import lower_program
from zeropoint.verification.interpreter import run_reference

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dim", [-1, 1])
def test_values_and_indices(largest: bool, dim: int) -> None:
    x = torch.randperm(2 * 5 * 7).view(2, 5, 7).float()
    result = check(lambda x: torch.topk(x, 3, dim=dim, largest=largest), x)
    assert result.kernels("edge").count("topk_rows") == 1


def test_everything_and_integers() -> None:
    check(lambda x: torch.topk(x, 6), torch.tensor([5, -3, 8, 0, 7, 2]))
    check(lambda x: torch.topk(x, 1).indices, torch.randn(3, 1))


@pytest.mark.parametrize("largest", [True, False])
def test_equal_elements_keep_their_order_and_nan_is_the_largest(largest: bool) -> None:
    """Which of equal elements PyTorch names is not defined, so the order is compared with a stable sort's."""
    rows = [[1.0, 1.0, 0.0, 1.0, 0.0], [-INF] * 5, [NAN, INF, 0.0, NAN, -INF], [INF, NAN, 1.0, 2.0, 3.0]]
    x = torch.tensor(rows)
    check(lambda x: torch.topk(x, 5, largest=largest).values, x)
    exported = export(Function(lambda x: torch.topk(x, 5, largest=largest).indices), (x,), "edge")
    (found,) = run_reference(*lower_program(exported, CompileOptions()), [x]).outputs
    assert torch.equal(found, x.sort(descending=largest, stable=True).indices)


@pytest.mark.parametrize(
    "places", [lambda y: torch.topk(y, 2).indices, lambda y: y.max(1).indices], ids=["topk", "max"]
)
def test_places_are_indices_within_their_dimension(places: Callable[[Tensor], Tensor]) -> None:
    """As a mixture of experts picks weights; nothing is checked when it runs."""
    result = check(lambda x, y: x[places(y)], torch.randn(5, 3), torch.randn(4, 5))
    assert "check_index" not in result.kernels("edge")


@pytest.mark.parametrize("dim", [0, 1])
def test_long_rows(dim: int) -> None:
    """Those of a dimension in the middle, too, and rows whose number is known at run time."""
    x = torch.randn(2, 5000, 3) if dim else torch.randn(5000, 2, 3)
    result = check(lambda x: torch.topk(x, 70, dim=dim), x, half=False)  # which of equal halves eager takes is its own
    assert result.kernels("edge").count("topk_rows") == 2
    shapes = ({0: torch.export.Dim("n", min=1, max=16)},)
    check(lambda x: torch.topk(x, 3), torch.randn(4, 5000), dynamic_shapes=shapes, half=False)


def test_argmax_of_long_rows() -> None:
    x = torch.randn(3, 5000)
    x[0, 4100] = x[0, 3000] = 9.0
    x[1, 4900] = x[1, 17] = NAN
    result = check(lambda x: (x.argmax(-1), x.argmax(-1, keepdim=True), x.argmax(), x.max(1).indices), x, half=False)
    assert "argmax_rows" not in result.kernels("edge")
    result = check(lambda x: (x.argmin(-1), x.argmax(0)), x, half=False)
    assert "topk_rows" not in result.kernels("edge")


def test_nothing_and_too_many() -> None:
    check(lambda x: torch.topk(x, 0), torch.randn(3, 4))
    check(lambda x: torch.topk(x, 2048), torch.randperm(2048).float())
    reasons = refusals(lambda x: torch.topk(x, 1025).values, torch.randn(2, 2049))
    assert any("topk of rank 0" in text for text in refusals(lambda x: torch.topk(x, 1).values, torch.tensor(3.0)))
    assert any("topk of 1025 in 2049; offered up to 1024, or all of 2048" in reason for reason in reasons)


def test_a_dynamic_dimension_is_refused() -> None:
    shapes = ({1: torch.export.Dim("n", min=4, max=16)},)
    reasons = refusals(lambda x: torch.topk(x, 2).values, torch.randn(2, 6), dynamic_shapes=shapes)
    assert any("dimension 1 is dynamic" in reason for reason in reasons)

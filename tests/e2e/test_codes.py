"""The comparison of codes itself: what it counts, and that it fails."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from tests.e2e.codes import TIE, Quantized, assert_as_eager, assert_few_differ, compare
from zeropoint.verification.report import Verification

X = torch.tensor([[1.0, 2.5, -0.2], [0.0, 3.49999, 1.0]])


def quantized(q: list[list[int]], zero_point: float = 0.0) -> Quantized:
    ones = torch.ones(2, 1)
    return Quantized(torch.tensor(q, dtype=torch.int8), ones, ones * zero_point, X)


EAGER = quantized([[1, 2, 0], [0, 3, 1]])


def test_equal_codes_need_equal_results() -> None:
    found = compare([EAGER, EAGER], [EAGER, EAGER])
    assert (found.n_codes, found.n_different) == (12, 0)
    assert_as_eager(found, 9e-7)
    with pytest.raises(AssertionError):
        assert_as_eager(found, 2e-6)


def test_a_code_at_a_tie_may_fall_either_way() -> None:
    """Later quantizations count, but only the first is held against the tie."""
    found = compare([quantized([[1, 3, 0], [0, 4, 1]]), quantized([[5, 5, 5], [5, 5, 5]])], [EAGER, EAGER])
    assert (found.n_different, found.first_call, found.n_first) == (2 + 6, 0, 2)
    assert found.distances == pytest.approx([0.0, 1e-5], abs=1e-6)
    assert_as_eager(found, 1e-2)
    with pytest.raises(AssertionError):
        assert_as_eager(found, 6e-2)


@pytest.mark.parametrize("q", [[[1, 2, 1], [0, 3, 1]], [[2, 2, 0], [0, 3, 1]]])
def test_a_code_elsewhere_may_not(q: list[list[int]]) -> None:
    found = compare([quantized(q)], [EAGER])
    assert found.furthest > TIE
    with pytest.raises(AssertionError):
        assert_as_eager(found, 1e-7)


def test_a_zero_point_may_fall_either_way_at_a_tie_alone() -> None:
    """The first row's smallest value is -0.2, the second's 0."""
    found = compare([quantized([[2, 3, 1], [1, 4, 2]], zero_point=1.0)], [EAGER])
    assert found.zero_point_distances == pytest.approx([0.3, 0.5])
    with pytest.raises(AssertionError):
        assert_as_eager(found, 1e-7)


@pytest.mark.parametrize(("n_different", "fails"), [(0, False), (2, False), (3, True)])
def test_few_codes_may_differ_on_the_same_inputs(n_different: int, fails: bool) -> None:
    check = SimpleNamespace(slot="q", call=0, n_elements=20_000, rms_error=(n_different / 20_000) ** 0.5)
    program = SimpleNamespace(calls=[SimpleNamespace(kernel="quantize_rows")])
    verified = cast(Verification, SimpleNamespace(runs=[SimpleNamespace(program=program, checks=[check])]))
    with pytest.raises(AssertionError) if fails else nullcontext():
        assert_few_differ(verified)

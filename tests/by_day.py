"""Which cases of many `make test` runs; `make test-all` runs them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from _pytest.mark.structures import ParameterSet


def by_day(cases: Iterable[tuple[object, ...]], daily: Callable[..., bool]) -> list[ParameterSet]:
    """Cases of which all others are slow: a software device takes seconds to compile what one needs."""
    return [pytest.param(*case, marks=[] if daily(*case) else [pytest.mark.slow]) for case in cases]

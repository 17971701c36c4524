"""Which cases of many `make test` runs on a software device; `make test-all`, and every GPU, runs them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from _pytest.mark.structures import ParameterSet

from tests.op.calls import is_software


def by_day(cases: Iterable[tuple[object, ...]], daily: Callable[..., bool]) -> list[ParameterSet]:
    """Cases of which all but the daily ones are slow on a processor, which compiles for seconds what one needs."""
    slow = [pytest.mark.slow] if is_software() else []
    return [pytest.param(*case, marks=[] if daily(*case) else slow) for case in cases]

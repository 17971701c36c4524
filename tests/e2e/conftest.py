"""Every message of the validation layers, synchronization validation included, fails the test that caused it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zeropoint.llm.shape_rules import quick_shapes
from zeropoint.runtime import player


@pytest.fixture(scope="package", autouse=True)
def _quick_shapes() -> Iterator[None]:
    """A third of the time of a lowering, as in `zeropoint export`. The README's blocks run without."""
    with quick_shapes():
        yield


@pytest.fixture
def validated() -> Iterator[None]:
    """Fails unless the layers were on and stayed silent."""
    player.validation(clear=True)
    yield
    report = player.validation(clear=True)
    assert report.active, "validation layers are off; set ZEROPOINT_VALIDATION=1 before the first use of a device"
    assert not report.messages, "\n".join(report.messages)

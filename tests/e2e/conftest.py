"""Every message of the validation layers, synchronization validation included, fails the test that caused it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zeropoint.runtime import player


@pytest.fixture
def validated() -> Iterator[None]:
    """Fails unless the layers were on and stayed silent."""
    player.validation(clear=True)
    yield
    report = player.validation(clear=True)
    assert report.active, "validation layers are off; set ZEROPOINT_VALIDATION=1 before the first use of a device"
    assert not report.messages, "\n".join(report.messages)

"""Player tests run under the validation layers and fail on any message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropoint.runtime import player


@pytest.fixture(autouse=True)
def quiet_layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache folder of its own, and no message."""
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", str(tmp_path / "cache"))
    player.validation(clear=True)
    yield
    found = player.validation(clear=True)
    assert found.active, "validation layers are off: run with ZEROPOINT_VALIDATION=1"
    assert found.count == 0, found.messages[0]

"""Every operator test runs under Vulkan's validation layers and fails on any message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zeropoint.runtime.player import validation


@pytest.fixture(autouse=True)
def no_validation_message() -> Iterator[None]:
    yield
    found = validation(clear=True)
    assert found.active, "validation layers are off: run with ZEROPOINT_VALIDATION=1"
    assert found.count == 0, found.messages[0]

"""What Vulkan offers on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from . import library as native


@dataclass(frozen=True, slots=True)
class Device:
    """A Vulkan device. facts: what guards may ask for, after ZEROPOINT_DISABLE. unusable: why, or empty."""

    index: int
    name: str
    type: str
    driver: str
    api: str
    unusable: str
    facts: Mapping[str, int]


def devices() -> tuple[Device, ...]:
    """Every Vulkan device, in the order that ZEROPOINT_DEVICE counts. Raises RuntimeFailure without a loader."""
    answer = json.loads(native.text_of(native.open_library().zp_devices()))
    return tuple(Device(**item) for item in answer)

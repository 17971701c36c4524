"""The bytes of constants: arrays, or packers that run once at export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import ProgramError
from .data import Tensor

Payloads = Mapping[str, bytes | memoryview]  # of constants, by key

if TYPE_CHECKING:
    import numpy as np

    ConstantData = np.ndarray | bytes | Callable[[], np.ndarray | bytes]


def array_of(data: ConstantData) -> np.ndarray:
    """The array of a constant that is none of bytes."""
    value = data() if callable(data) else data
    assert not isinstance(value, bytes)
    return value


def payload_of(tensor: Tensor, data: ConstantData) -> bytes:
    """The constant's bytes, zero-padded to size_bytes."""
    value = data() if callable(data) else data
    payload = value if isinstance(value, bytes) else value.tobytes()
    if not tensor.size_bytes - 16 < len(payload) <= tensor.size_bytes:
        raise ProgramError(
            f"constant {tensor.name}: {len(payload)} bytes; its dtype and dimensions need {tensor.size_bytes} "
            "(or up to 15 fewer, which are padded)"
        )
    return payload.ljust(tensor.size_bytes, b"\0")

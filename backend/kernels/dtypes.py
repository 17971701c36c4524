"""Device element types and storages, spelled alike in Python, TOML, the schemas and GLSL."""

from __future__ import annotations

from enum import Enum


class DType(Enum):
    """Element type of a device allocation. `NONE` marks an unbound optional slot in a variant key."""

    NONE = "none"
    F32 = "f32"
    F16 = "f16"
    I32 = "i32"
    I8 = "i8"
    U8 = "u8"
    I4 = "i4"

    @property
    def bits(self) -> int:
        """Bits per element; 0 for NONE."""
        return {"none": 0, "f32": 32, "f16": 16, "i32": 32, "i8": 8, "u8": 8, "i4": 4}[self.value]


class Storage(Enum):
    """How a tensor is allocated: a storage buffer, or a 2-D storage image of one element a texel."""

    NONE = "none"
    BUFFER = "buffer"
    IMAGE = "image"

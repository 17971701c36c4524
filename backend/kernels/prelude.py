"""The macros and extensions that a variant's key and its manifest put in front of the shader."""

from __future__ import annotations

from dataclasses import dataclass

from .dtypes import DType, Storage
from .keys import SlotKey, VariantKey
from .manifest import Algorithm, Manifest, Slot

_GLSL = {"f32": "float", "f16": "float16_t", "i32": "int", "u32": "uint", "i8": "int8_t", "u8": "uint8_t"}
_GLSL_VECTOR = {"f32": "vec", "f16": "f16vec", "i32": "ivec", "u32": "uvec", "i8": "i8vec", "u8": "u8vec"}
IMAGE_FORMATS = {DType.F32: "rgba32f", DType.F16: "rgba16f", DType.I32: "rgba32i", DType.I8: "rgba8i"}
IMAGE_SAMPLED = {DType.F32: "f32", DType.F16: "f32", DType.I32: "i32", DType.I8: "i32"}
_EXTENSION_OF_BITS = {16: "GL_EXT_shader_16bit_storage", 8: "GL_EXT_shader_8bit_storage"}


@dataclass(frozen=True, slots=True)
class Prelude:
    macros: tuple[tuple[str, str], ...]
    extensions: tuple[str, ...]


def prelude(manifest: Manifest, algorithm: Algorithm, key: VariantKey) -> Prelude:
    macros: list[tuple[str, str]] = []
    extensions: set[str] = set()
    for index, (slot, choice) in enumerate(zip(manifest.slots, key.slots, strict=True)):
        macros += _slot_macros(index, slot, choice)
        if choice.storage is Storage.BUFFER:
            bits = int(element_type(slot, choice).split("x")[0][1:])
            extensions |= {_EXTENSION_OF_BITS[bits]} if bits < 32 else set()
    macros += [(name, str(value)) for name, value in (*manifest.macros(), *algorithm.defines)]
    return Prelude(macros=tuple(macros), extensions=tuple(sorted(extensions)))


def element_type(slot: Slot, choice: SlotKey) -> str:
    """What a buffer binding's element must be: the declared view, or the dtype."""
    return slot.element(choice.dtype)


def _slot_macros(index: int, slot: Slot, choice: SlotKey) -> list[tuple[str, str]]:
    name = slot.name.upper()
    macros = [(f"{name}_BINDING", str(index)), (f"{name}_{choice.dtype.value.upper()}", "1")]
    if choice.storage is Storage.BUFFER:
        macros += [(f"{name}_BUFFER", "1"), (f"{name}_TYPE", _glsl_type(element_type(slot, choice)))]
    elif choice.storage is Storage.IMAGE:
        image = "iimage2D" if IMAGE_SAMPLED[choice.dtype] == "i32" else "image2D"
        macros += [(f"{name}_IMAGE", "1"), (f"{name}_FORMAT", IMAGE_FORMATS[choice.dtype])]
        macros += [(f"{name}_IMAGE_TYPE", image)]
    return macros


def _glsl_type(element: str) -> str:
    scalar, _, count = element.partition("x")
    return f"{_GLSL_VECTOR[scalar]}{count}" if count else _GLSL[scalar]

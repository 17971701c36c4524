"""The macros and extensions that a variant's key and its manifest put in front of the shader."""

from __future__ import annotations

from dataclasses import dataclass

from .dtypes import DType, Storage
from .keys import SlotKey, VariantKey
from .manifest import TURNS_BINDING, Algorithm, Io, Manifest, Slot

_GLSL = {"f32": "float", "f16": "float16_t", "i32": "int", "u32": "uint", "i8": "int8_t", "u8": "uint8_t"}
_GLSL_VECTOR = {"f32": "vec", "f16": "f16vec", "i32": "ivec", "u32": "uvec", "i8": "i8vec", "u8": "u8vec"}
IMAGE_FORMATS = {DType.F32: "rgba32f", DType.F16: "rgba16f", DType.I32: "rgba32i", DType.I8: "rgba8i"}
IMAGE_SAMPLED = {DType.F32: "f32", DType.F16: "f32", DType.I32: "i32", DType.I8: "i32"}
# Element i of a buffer of 8 or 16 bits that is read as words, by the functions of shaders/lib/elements.glsl.
_ELEMENT = {DType.I8: "signed_byte_of({0}[(i) >> 2], i)", DType.U8: "byte_of({0}[(i) >> 2], i)",
            DType.F16: "half_of({0}[(i) >> 1], i)"}  # fmt: skip
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
    macros += [("TURNS_BINDING", str(TURNS_BINDING))] if algorithm.ahead is not None else []
    return Prelude(macros=tuple(macros), extensions=tuple(sorted(extensions)))


def element_type(slot: Slot, choice: SlotKey) -> str:
    """What a buffer binding's element must be: the declared view, or the dtype."""
    return slot.element(choice.dtype)


def puts_parts(slot: Slot, choice: SlotKey) -> bool:
    """Whether an output's elements are put into words by atomics, which read what they change."""
    return slot.atomic and choice.storage is Storage.BUFFER and element_type(slot, choice) != choice.dtype.value


def _slot_macros(index: int, slot: Slot, choice: SlotKey) -> list[tuple[str, str]]:
    name = slot.name.upper()
    macros = [(f"{name}_BINDING", str(index)), (f"{name}_{choice.dtype.value.upper()}", "1")]
    if choice.storage is Storage.BUFFER:
        element = element_type(slot, choice)
        macros += [(f"{name}_BUFFER", "1"), (f"{name}_TYPE", _glsl_type(element))]
        at = "{0}[i]" if element == choice.dtype.value else _ELEMENT.get(choice.dtype) if element == "u32" else None
        macros += [(f"{name}_AT(i)", at.format(slot.name))] if at and slot.io is not Io.OUT else []
        if slot.atomic:
            macros += [(f"{name}_ACCESS", "" if puts_parts(slot, choice) else "writeonly")]
    elif choice.storage is Storage.IMAGE:
        image = "iimage2D" if IMAGE_SAMPLED[choice.dtype] == "i32" else "image2D"
        macros += [(f"{name}_IMAGE", "1"), (f"{name}_FORMAT", IMAGE_FORMATS[choice.dtype])]
        macros += [(f"{name}_IMAGE_TYPE", image)]
    return macros


def _glsl_type(element: str) -> str:
    scalar, _, count = element.partition("x")
    return f"{_GLSL_VECTOR[scalar]}{count}" if count else _GLSL[scalar]

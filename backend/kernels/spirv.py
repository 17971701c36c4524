"""A SPIR-V module as plain data: the word stream, its types, constants, names and decorations.

Source: Khronos SPIR-V specification, sections 2.3 and 3. It does not validate; spirv-val does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ..errors import ShaderError

MAGIC = 0x07230203


class Opcode(IntEnum):
    """The instructions that reflection looks at (SPIR-V specification, section 3.49)."""

    NAME = 5
    MEMBER_NAME = 6
    EXTENSION = 10
    EXECUTION_MODE = 16
    MEMORY_MODEL = 14
    CAPABILITY = 17
    TYPE_VOID = 19
    TYPE_BOOL = 20
    TYPE_INT = 21
    TYPE_FLOAT = 22
    TYPE_VECTOR = 23
    TYPE_IMAGE = 25
    TYPE_ARRAY = 28
    TYPE_RUNTIME_ARRAY = 29
    TYPE_STRUCT = 30
    TYPE_POINTER = 32
    CONSTANT_TRUE = 41
    CONSTANT = 43
    CONSTANT_COMPOSITE = 44
    SPEC_CONSTANT_TRUE = 48
    SPEC_CONSTANT_FALSE = 49
    SPEC_CONSTANT = 50
    SPEC_CONSTANT_COMPOSITE = 51
    FUNCTION = 54
    FUNCTION_PARAMETER = 55
    FUNCTION_CALL = 57
    VARIABLE = 59
    IMAGE_TEXEL_POINTER = 60
    LOAD = 61
    STORE = 62
    COPY_MEMORY = 63
    ACCESS_CHAIN = 65
    IN_BOUNDS_ACCESS_CHAIN = 66
    PTR_ACCESS_CHAIN = 67
    IN_BOUNDS_PTR_ACCESS_CHAIN = 70
    DECORATE = 71
    MEMBER_DECORATE = 72
    COPY_OBJECT = 83
    IMAGE_READ = 98
    IMAGE_WRITE = 99
    UCONVERT = 113
    SCONVERT = 114
    FCONVERT = 115
    SELECT = 169
    ATOMIC_LOAD = 227
    ATOMIC_STORE = 228
    PHI = 245
    LOOP_MERGE = 246
    EXECUTION_MODE_ID = 331
    TYPE_MATRIX = 4456  # cooperative ones: OpTypeCooperativeMatrixKHR
    MATRIX_LOAD = 4457
    MATRIX_STORE = 4458
    MATRIX_MULTIPLY_ADD = 4459


class Decoration(IntEnum):
    SPEC_ID = 1
    ARRAY_STRIDE = 6
    BUILT_IN = 11
    COHERENT = 23
    NON_WRITABLE = 24
    NON_READABLE = 25
    BINDING = 33
    DESCRIPTOR_SET = 34
    OFFSET = 35
    NO_CONTRACTION = 42


class StorageClass(IntEnum):
    UNIFORM_CONSTANT = 0
    UNIFORM = 2
    WORKGROUP = 4
    PRIVATE = 6
    FUNCTION = 7
    PUSH_CONSTANT = 9
    STORAGE_BUFFER = 12


@dataclass(frozen=True, slots=True)
class Instruction:
    opcode: int
    operands: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Type:
    """A type declaration; `operands` are those after its result id."""

    opcode: int
    operands: tuple[int, ...]


@dataclass(frozen=True)
class Module:
    """Indexes over one module. Decorations of member i of a struct stand under (id, i), of an id under (id, None)."""

    version: tuple[int, int]
    instructions: tuple[Instruction, ...]
    types: dict[int, Type]
    constants: dict[int, Instruction]
    names: dict[tuple[int, int | None], str]
    decorations: dict[tuple[int, int | None], dict[int, tuple[int, ...]]]
    pointers: dict[int, int]  # global variable -> its pointer type

    def decoration(self, target: int, kind: Decoration, member: int | None = None) -> int | None:
        """First operand of a decoration (0 for one that has none), None where it is absent."""
        operands = self.decorations.get((target, member), {}).get(kind)
        return None if operands is None else (operands[0] if operands else 0)

    def constant(self, target: int) -> int | None:
        """Value of an unspecialized 32-bit integer constant, None for anything else."""
        instruction = self.constants.get(target)
        if instruction is None or instruction.opcode != Opcode.CONSTANT:
            return None
        return instruction.operands[2]

    def scalar_text(self, type_id: int) -> str:
        """`f32`, `i8`, `u32x4`, `bool`; otherwise a description."""
        kind = self.types[type_id]
        if kind.opcode == Opcode.TYPE_FLOAT:
            return f"f{kind.operands[0]}"
        if kind.opcode == Opcode.TYPE_INT:
            return f"{'i' if kind.operands[1] else 'u'}{kind.operands[0]}"
        if kind.opcode == Opcode.TYPE_BOOL:
            return "bool"
        if kind.opcode == Opcode.TYPE_VECTOR:
            return f"{self.scalar_text(kind.operands[0])}x{kind.operands[1]}"
        return f"a type of opcode {kind.opcode}"


def parse(data: bytes) -> Module:
    """Reads a module. Raises ShaderError when the words are not a SPIR-V stream."""
    words = struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])
    if len(words) < 5 or len(data) % 4 or words[0] != MAGIC:
        raise ShaderError(f"SPIR-V: {len(data)} bytes that do not begin with a SPIR-V header; the compiler is broken")
    instructions = _instructions(words)
    types: dict[int, Type] = {}
    constants: dict[int, Instruction] = {}
    names: dict[tuple[int, int | None], str] = {}
    decorations: dict[tuple[int, int | None], dict[int, tuple[int, ...]]] = {}
    pointers: dict[int, int] = {}
    for item in instructions:
        ops = item.operands
        if item.opcode == Opcode.FUNCTION:
            break
        if Opcode.TYPE_VOID <= item.opcode <= 39 or item.opcode == Opcode.TYPE_MATRIX:
            types[ops[0]] = Type(item.opcode, ops[1:])
        elif Opcode.CONSTANT_TRUE <= item.opcode <= 52:
            constants[ops[1]] = item
        elif item.opcode == Opcode.VARIABLE:
            pointers[ops[1]] = ops[0]
        elif item.opcode == Opcode.NAME:
            names[ops[0], None] = text(ops[1:])
        elif item.opcode == Opcode.MEMBER_NAME:
            names[ops[0], ops[1]] = text(ops[2:])
        elif item.opcode == Opcode.DECORATE:
            decorations.setdefault((ops[0], None), {})[ops[1]] = ops[2:]
        elif item.opcode == Opcode.MEMBER_DECORATE:
            decorations.setdefault((ops[0], ops[1]), {})[ops[2]] = ops[3:]
    version = (words[1] >> 16 & 0xFF, words[1] >> 8 & 0xFF)
    return Module(version, instructions, types, constants, names, decorations, pointers)


def text(words: Sequence[int]) -> str:
    """The NUL-terminated string packed into words."""
    return struct.pack(f"<{len(words)}I", *words).split(b"\0", 1)[0].decode("utf-8", "replace")


def _instructions(words: Sequence[int]) -> tuple[Instruction, ...]:
    result = []
    position = 5
    while position < len(words):
        size = words[position] >> 16
        if not 1 <= size <= len(words) - position:
            raise ShaderError(
                f"SPIR-V: word {position}: an instruction of {size} words; {len(words) - position} are left"
            )
        result.append(Instruction(words[position] & 0xFFFF, tuple(words[position + 1 : position + size])))
        position += size
    return tuple(result)

"""Which SPIR-V capabilities and extensions a module needs, from the types and instructions it uses.

Covers exactly the capabilities that the player has a device fact for; any other one is refused.
Source: SPIR-V specification, section 3.31, and spirv-val's rules for small types.
"""

from __future__ import annotations

from collections.abc import Iterator

from .spirv import Decoration, Instruction, Module, Opcode, StorageClass

SHADER, MATRIX, IMAGE_QUERY = 1, 0, 50
FLOAT16, INT64, INT16, INT8 = 9, 11, 22, 39
STORAGE_16BIT, STORAGE_8BIT = 4433, 4448
VULKAN_MEMORY_MODEL = 5345
DOT_INPUT_ALL, DOT_INPUT_4X8, DOT_INPUT_PACKED, DOT_PRODUCT = 6016, 6017, 6018, 6019
COOPERATIVE_MATRIX = 6022
GROUP_BASIC, GROUP_VOTE, GROUP_ARITHMETIC, GROUP_BALLOT = 61, 62, 63, 64
GROUP_SHUFFLE, GROUP_SHUFFLE_RELATIVE, GROUP_CLUSTERED = 65, 66, 67

NAMES = {
    SHADER: "Shader",
    MATRIX: "Matrix",
    IMAGE_QUERY: "ImageQuery",
    FLOAT16: "Float16",
    INT64: "Int64",
    INT16: "Int16",
    INT8: "Int8",
    GROUP_BASIC: "GroupNonUniform",
    GROUP_VOTE: "GroupNonUniformVote",
    GROUP_ARITHMETIC: "GroupNonUniformArithmetic",
    GROUP_BALLOT: "GroupNonUniformBallot",
    GROUP_SHUFFLE: "GroupNonUniformShuffle",
    GROUP_SHUFFLE_RELATIVE: "GroupNonUniformShuffleRelative",
    GROUP_CLUSTERED: "GroupNonUniformClustered",
    STORAGE_16BIT: "StorageBuffer16BitAccess",
    STORAGE_8BIT: "StorageBuffer8BitAccess",
    VULKAN_MEMORY_MODEL: "VulkanMemoryModel",
    DOT_INPUT_ALL: "DotProductInputAll",
    DOT_INPUT_4X8: "DotProductInput4x8Bit",
    DOT_INPUT_PACKED: "DotProductInput4x8BitPacked",
    DOT_PRODUCT: "DotProduct",
    COOPERATIVE_MATRIX: "CooperativeMatrixKHR",
}
# An extension is needed when one of these capabilities is. Those that SPIR-V 1.3 took in never are.
EXTENSIONS = {
    "SPV_KHR_8bit_storage": (STORAGE_8BIT,),
    "SPV_KHR_vulkan_memory_model": (VULKAN_MEMORY_MODEL,),
    "SPV_KHR_cooperative_matrix": (COOPERATIVE_MATRIX,),
    "SPV_KHR_integer_dot_product": (DOT_INPUT_ALL, DOT_INPUT_4X8, DOT_INPUT_PACKED, DOT_PRODUCT),
}

_SMALL = {(Opcode.TYPE_FLOAT, 16): FLOAT16, (Opcode.TYPE_INT, 16): INT16, (Opcode.TYPE_INT, 8): INT8}
# Without the arithmetic capability a small value may only be loaded, stored, converted and copied.
_SMALL_SOURCES = (Opcode.LOAD, Opcode.COPY_OBJECT, Opcode.FCONVERT, Opcode.SCONVERT, Opcode.UCONVERT)
_SMALL_USERS = (Opcode.STORE, Opcode.COPY_OBJECT, Opcode.FCONVERT, Opcode.SCONVERT, Opcode.UCONVERT)
_OWN_STORAGE = (StorageClass.FUNCTION, StorageClass.PRIVATE, StorageClass.WORKGROUP)
_REDUCE, _CLUSTERED_REDUCE = (0, 1, 2), 3  # group operations
_MEMORY_MODEL_VULKAN = 3
_FIRST_DOT_ACC_SAT = 4453
_QUERIES = range(103, 108)  # OpImageQueryFormat .. OpImageQuerySamples
_GROUPS = range(333, 367)  # OpGroupNonUniformElect .. OpGroupNonUniformQuadSwap
_DOTS = range(4450, 4456)  # OpSDot .. OpSUDotAccSat
_DECLARES = (Opcode.TYPE_INT, Opcode.TYPE_MATRIX, Opcode.VARIABLE, Opcode.MEMORY_MODEL, Opcode.DECORATE)
_TELLING = frozenset((*_DECLARES, *_QUERIES, *_GROUPS, *_DOTS))
_UNDEF, _EXT_INST = 1, 12
_SUBGROUP_BUILTINS = (36, 38, 40, 41)  # SubgroupSize, NumSubgroups, SubgroupId, SubgroupLocalInvocationId


def needed(module: Module) -> frozenset[int]:
    """Capabilities of NAMES that the module cannot do without."""
    found = {SHADER, MATRIX}
    for item in module.instructions:
        if item.opcode in _TELLING:
            found.update(_of_instruction(module, item))
    small = {target: capability for target in module.types if (capability := _small(module, target)) is not None}
    if small:
        found |= _arithmetic(module, small)
    return frozenset(found)


def _arithmetic(module: Module, small: dict[int, int]) -> set[int]:
    """Arithmetic capabilities of the 16- and 8-bit values: `small` maps types to capabilities."""
    found: set[int] = set()
    values: dict[int, int] = {}
    for item in module.instructions:
        if item.operands and item.operands[0] in small and _has_value(item):
            values[item.operands[1]] = small[item.operands[0]]
            if item.opcode not in _SMALL_SOURCES:
                found.add(small[item.operands[0]])
        if item.opcode == Opcode.VARIABLE and item.operands[2] in _OWN_STORAGE:
            found |= {small[part] for part in _parts(module, _pointee(module, item.operands[0])) if part in small}
    for item in module.instructions:
        if item.opcode not in _SMALL_USERS and not _is_declaration(item):
            found |= {values[operand] for operand in item.operands[2 if _has_value(item) else 0 :] if operand in values}
    return found


def matrix_products(module: Module) -> frozenset[str]:
    """Facts for the products of cooperative matrices: coopmat_f16_16x16x16 is f16 [16, 16] * f16 [16, 16] + f32.

    A product of other types, for which no fact has a name, comes with all of them.
    """
    matrices = {target: kind.operands for target, kind in module.types.items() if kind.opcode == Opcode.TYPE_MATRIX}
    values = [item.operands for item in module.instructions if _has_value(item) and item.operands[0] in matrices]
    types = {operands[1]: matrices[operands[0]] for operands in values}
    found = set()
    for item in module.instructions:
        if item.opcode == Opcode.MATRIX_MULTIPLY_ADD:
            a, b, c = (types[operand] for operand in item.operands[2:5])
            names = [module.scalar_text(matrix[0]) for matrix in (a, b, c)]
            sizes = "x".join(str(module.constant(size)) for size in (a[2], b[3], a[3]))
            plain = names in (["f16", "f16", "f32"], ["i8", "i8", "i32"])
            found.add(f"coopmat_{names[0] if plain else '_'.join(names)}_{sizes}")
    return frozenset(found)


def matrix_parts(module: Module) -> frozenset[str]:
    """The elements of shared memory that cooperative matrices are loaded from or stored to: `u32x4`."""
    classes = {item.operands[1]: item.operands[0] for item in module.instructions if _has_value(item)}
    found = set()
    for item in module.instructions:
        if item.opcode in (Opcode.MATRIX_LOAD, Opcode.MATRIX_STORE):
            pointer = module.types[classes[item.operands[2 if item.opcode == Opcode.MATRIX_LOAD else 0]]]
            if pointer.operands[0] == StorageClass.WORKGROUP:
                found.add(module.scalar_text(pointer.operands[1]))
    return frozenset(found)


def needed_extensions(capabilities: frozenset[int]) -> frozenset[str]:
    return frozenset(name for name, uses in EXTENSIONS.items() if any(use in capabilities for use in uses))


def _has_value(item: Instruction) -> bool:
    """True where a result type and a result id come first."""
    is_store = item.opcode in (Opcode.STORE, Opcode.IMAGE_WRITE, Opcode.ATOMIC_STORE, Opcode.MATRIX_STORE)
    return not _is_declaration(item) and not is_store and len(item.operands) >= 2


def _is_declaration(item: Instruction) -> bool:
    """Debug, mode, type and annotation instructions: their operands are no values."""
    code = item.opcode
    is_type = Opcode.TYPE_VOID <= code <= 39 or code == Opcode.TYPE_MATRIX
    is_annotation = code in (Opcode.DECORATE, Opcode.MEMBER_DECORATE, Opcode.EXECUTION_MODE_ID)
    return is_type or is_annotation or (code < Opcode.TYPE_VOID and code not in (_UNDEF, _EXT_INST))


def _of_instruction(module: Module, item: Instruction) -> Iterator[int]:
    code, ops = item.opcode, item.operands
    if code == Opcode.TYPE_INT and ops[1] == 64:
        yield INT64
    elif code == Opcode.TYPE_MATRIX:
        yield COOPERATIVE_MATRIX
        if (arithmetic := _small(module, ops[1])) is not None:
            yield arithmetic
    elif code == Opcode.VARIABLE and ops[2] == StorageClass.STORAGE_BUFFER:
        parts = [_small(module, part) for part in _parts(module, _pointee(module, ops[0]))]
        yield from (STORAGE_8BIT if part == INT8 else STORAGE_16BIT for part in parts if part is not None)
    elif code in _QUERIES:
        yield IMAGE_QUERY
    elif code == Opcode.MEMORY_MODEL and ops[1] == _MEMORY_MODEL_VULKAN:
        yield VULKAN_MEMORY_MODEL
    elif code in _DOTS:
        yield DOT_PRODUCT
        yield _dot_input(module, code, ops)
    elif code == Opcode.DECORATE and ops[1] == Decoration.BUILT_IN and ops[2] in _SUBGROUP_BUILTINS:
        yield GROUP_BASIC
    elif code in _GROUPS:
        yield from _of_group(code, ops)


def _dot_input(module: Module, code: int, ops: tuple[int, ...]) -> int:
    """The input capability of a dot product: packed words carry a format after the operands, vectors do not."""
    if len(ops) > (4 if code < _FIRST_DOT_ACC_SAT else 5):
        return DOT_INPUT_PACKED
    for item in module.instructions:
        if _has_value(item) and item.operands[1] == ops[2]:
            return DOT_INPUT_4X8 if _small(module, item.operands[0]) == INT8 else DOT_INPUT_ALL
    return DOT_INPUT_ALL


def _of_group(code: int, ops: tuple[int, ...]) -> Iterator[int]:
    yield GROUP_BASIC
    if 334 <= code <= 336:  # All, Any, AllEqual
        yield GROUP_VOTE
    elif 337 <= code <= 344:  # Broadcast, BroadcastFirst, Ballot ...
        yield GROUP_BALLOT
    elif code in (345, 346):
        yield GROUP_SHUFFLE
    elif code in (347, 348):
        yield GROUP_SHUFFLE_RELATIVE
    elif 349 <= code <= 364 and ops[3] in _REDUCE:
        yield GROUP_ARITHMETIC
    elif 349 <= code <= 364 and ops[3] == _CLUSTERED_REDUCE:
        yield GROUP_CLUSTERED


def _small(module: Module, target: int) -> int | None:
    """The arithmetic capability of a 16- or 8-bit scalar or vector type."""
    kind = module.types[target]
    if kind.opcode == Opcode.TYPE_VECTOR:
        return _small(module, kind.operands[0])
    if kind.opcode not in (Opcode.TYPE_INT, Opcode.TYPE_FLOAT):
        return None
    for (opcode, width), capability in _SMALL.items():
        if (kind.opcode, kind.operands[0]) == (opcode, width):
            return capability
    return None


def _pointee(module: Module, pointer: int) -> int:
    return module.types[pointer].operands[1]


def _parts(module: Module, target: int) -> Iterator[int]:
    """The type and, through structs and arrays, the types in it."""
    yield target
    kind = module.types[target]
    if kind.opcode == Opcode.TYPE_STRUCT:
        for member in kind.operands:
            yield from _parts(module, member)
    elif kind.opcode in (Opcode.TYPE_ARRAY, Opcode.TYPE_RUNTIME_ARRAY):
        yield from _parts(module, kind.operands[0])

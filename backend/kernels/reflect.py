"""What a SPIR-V module declares: bindings, push constants, specialization constants, local size, shared memory."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ShaderError
from . import spirv
from .spirv import Decoration, Module, Opcode, StorageClass

_RESOURCES = (StorageClass.UNIFORM_CONSTANT, StorageClass.UNIFORM, StorageClass.STORAGE_BUFFER)
_FLAGS = (Decoration.NON_READABLE, Decoration.NON_WRITABLE, Decoration.COHERENT)
_WORKGROUP_SIZE = 25  # BuiltIn
_LOCAL_SIZE, _LOCAL_SIZE_ID = 17, 38  # execution modes
_IMAGE_FORMATS = {
    0: "no format", 1: "rgba32f", 2: "rgba16f", 3: "r32f", 4: "rgba8", 5: "rgba8_snorm", 6: "rg32f", 7: "rg16f",
    8: "r11f_g11f_b10f", 9: "r16f", 10: "rgba16", 11: "rgb10_a2", 12: "rg16", 13: "rg8", 14: "r16", 15: "r8",
    16: "rgba16_snorm", 17: "rg16_snorm", 18: "rg8_snorm", 19: "r16_snorm", 20: "r8_snorm", 21: "rgba32i",
    22: "rgba16i", 23: "rgba8i", 24: "r32i", 25: "rg32i", 26: "rg16i", 27: "rg8i", 28: "r16i", 29: "r8i",
    30: "rgba32ui", 31: "rgba16ui", 32: "rgba8ui", 33: "r32ui",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Binding:
    """`element`: a buffer's element (f32, u32x4) or an image's format and sampled type (rgba8i of i32)."""

    name: str
    set: int
    binding: int
    kind: str  # buffer, image, or what else it is
    element: str
    readable: bool
    writable: bool
    coherent: bool


@dataclass(frozen=True, slots=True)
class PushField:
    name: str
    offset: int
    type: str


@dataclass(frozen=True, slots=True)
class SpecConstant:
    id: int
    name: str
    type: str
    default: int


@dataclass(frozen=True, slots=True)
class Interface:
    """`local_size_specs` and `shared_specs` hold specialization ids that the local size or shared memory depend on."""

    bindings: tuple[Binding, ...]
    pushes: tuple[PushField, ...]
    specs: tuple[SpecConstant, ...]
    local_size: tuple[int, int, int]
    local_size_specs: tuple[int, ...]
    shared_bytes: int
    shared_specs: tuple[int, ...]
    capabilities: tuple[int, ...]
    extensions: tuple[str, ...]


def reflect(module: Module) -> Interface:
    """Declarations of a module that still has its names. Raises ShaderError on what no Zeropoint shader may hold."""
    bindings: list[Binding] = []
    pushes: tuple[PushField, ...] = ()
    shared_bytes = 0
    shared_specs: list[int] = []
    for item in module.instructions:
        if item.opcode == Opcode.FUNCTION:
            break
        if item.opcode != Opcode.VARIABLE:
            continue
        pointer, variable, storage = item.operands[:3]
        pointee = module.types[pointer].operands[1]
        if storage in _RESOURCES:
            bindings.append(_binding(module, variable, storage, pointee))
        elif storage == StorageClass.PUSH_CONSTANT:
            pushes = _pushes(module, pointee)
        elif storage == StorageClass.WORKGROUP:
            size, alignment = _layout(module, pointee, shared_specs)
            shared_bytes = -(-shared_bytes // alignment) * alignment + size
    local_size, local_size_specs = _local_size(module)
    return Interface(
        bindings=tuple(sorted(bindings, key=lambda binding: (binding.set, binding.binding))),
        pushes=pushes,
        specs=_specs(module),
        local_size=local_size,
        local_size_specs=local_size_specs,
        shared_bytes=shared_bytes,
        shared_specs=tuple(sorted(set(shared_specs))),
        capabilities=capabilities(module),
        extensions=tuple(spirv.text(i.operands) for i in module.instructions if i.opcode == Opcode.EXTENSION),
    )


def capabilities(module: Module) -> tuple[int, ...]:
    return tuple(sorted({i.operands[0] for i in module.instructions if i.opcode == Opcode.CAPABILITY}))


def _binding(module: Module, variable: int, storage: int, pointee: int) -> Binding:
    kind, element = f"storage class {storage}", f"a type of opcode {module.types[pointee].opcode}"
    declared = module.types[pointee]
    name = module.names.get((variable, None), "")
    flags = {flag for flag in _FLAGS if _decorated(module, variable, flag)}
    if declared.opcode == Opcode.TYPE_STRUCT:
        last = len(declared.operands) - 1
        name = module.names.get((pointee, last), "")
        flags |= {flag for flag in _FLAGS if _decorated(module, pointee, flag, last)}
    if declared.opcode == Opcode.TYPE_STRUCT and storage == StorageClass.STORAGE_BUFFER:
        kind, element = "buffer", _buffer_element(module, pointee)
    elif storage == StorageClass.UNIFORM_CONSTANT and declared.opcode == Opcode.TYPE_IMAGE:
        kind, element = "image", _image_element(module, declared)
    return Binding(
        name=name,
        set=module.decoration(variable, Decoration.DESCRIPTOR_SET) or 0,
        binding=module.decoration(variable, Decoration.BINDING) or 0,
        kind=kind,
        element=element,
        readable=Decoration.NON_READABLE not in flags,
        writable=Decoration.NON_WRITABLE not in flags,
        coherent=Decoration.COHERENT in flags,
    )


def _decorated(module: Module, target: int, kind: Decoration, member: int | None = None) -> bool:
    return module.decoration(target, kind, member) is not None


def _buffer_element(module: Module, struct_id: int) -> str:
    members = module.types[struct_id].operands
    array = module.types[members[0]] if members else None
    if len(members) != 1 or array is None or array.opcode != Opcode.TYPE_RUNTIME_ARRAY:
        return f"a block of {len(members)} members"
    element = module.scalar_text(array.operands[0])
    stride = module.decoration(members[0], Decoration.ARRAY_STRIDE)
    size, _ = _layout(module, array.operands[0], [])
    return element if stride == size else f"{element} with stride {stride}"


def _image_element(module: Module, image: spirv.Type) -> str:
    sampled_type, dim, _, arrayed, multisampled, sampled, image_format = image.operands[:7]
    name = _IMAGE_FORMATS.get(image_format, f"format {image_format}")
    if (dim, arrayed, multisampled, sampled) != (1, 0, 0, 2):
        return f"{name}, not a plain 2-D storage image"
    return f"{name} of {module.scalar_text(sampled_type)}"


def _pushes(module: Module, struct_id: int) -> tuple[PushField, ...]:
    members = module.types[struct_id].operands
    return tuple(
        PushField(
            name=module.names.get((struct_id, i), ""),
            offset=module.decoration(struct_id, Decoration.OFFSET, i) or 0,
            type=module.scalar_text(member),
        )
        for i, member in enumerate(members)
    )


def _specs(module: Module) -> tuple[SpecConstant, ...]:
    result = []
    for target, item in module.constants.items():
        if (number := module.decoration(target, Decoration.SPEC_ID)) is None:
            continue
        default = (
            item.operands[2] if item.opcode == Opcode.SPEC_CONSTANT else int(item.opcode == Opcode.SPEC_CONSTANT_TRUE)
        )
        name = module.names.get((target, None), "")
        result.append(SpecConstant(number, name, module.scalar_text(item.operands[0]), default))
    return tuple(sorted(result, key=lambda spec: spec.id))


def _local_size(module: Module) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Sizes at the constants' defaults, and the specialization ids they depend on."""
    ids: tuple[int, ...] = ()
    for target, item in module.constants.items():
        if module.decoration(target, Decoration.BUILT_IN) == _WORKGROUP_SIZE:
            ids = item.operands[2:5]
    for item in module.instructions:
        if ids or item.opcode not in (Opcode.EXECUTION_MODE, Opcode.EXECUTION_MODE_ID):
            continue
        if item.operands[1] == _LOCAL_SIZE:
            x, y, z = item.operands[2:5]
            return (x, y, z), ()
        if item.operands[1] == _LOCAL_SIZE_ID:
            ids = item.operands[2:5]
    if len(ids) != 3:
        raise ShaderError("SPIR-V: no local size; give the shader layout(local_size_x = ...) in")
    specs: list[int] = []
    x, y, z = (_constant(module, target, specs) for target in ids)
    return (x, y, z), tuple(specs)


def _constant(module: Module, target: int, specs: list[int]) -> int:
    """Default value of a constant; specialization ids are appended to `specs` (-1: an expression of some)."""
    item = module.constants[target]
    if item.opcode == Opcode.CONSTANT:
        return item.operands[2]
    number = module.decoration(target, Decoration.SPEC_ID)
    specs.append(-1 if number is None else number)
    return item.operands[2] if item.opcode == Opcode.SPEC_CONSTANT else 0


def _layout(module: Module, type_id: int, specs: list[int]) -> tuple[int, int]:
    """Size and alignment in bytes of a type under std430, which bounds shared memory (Vulkan, section 15.6.3)."""
    kind = module.types[type_id]
    if kind.opcode == Opcode.TYPE_BOOL:
        return 4, 4
    if kind.opcode in (Opcode.TYPE_INT, Opcode.TYPE_FLOAT):
        return kind.operands[0] // 8, kind.operands[0] // 8
    if kind.opcode == Opcode.TYPE_VECTOR:
        size, _ = _layout(module, kind.operands[0], specs)
        return size * kind.operands[1], size * (4 if kind.operands[1] == 3 else kind.operands[1])
    if kind.opcode == Opcode.TYPE_ARRAY:
        size, alignment = _layout(module, kind.operands[0], specs)
        return -(-size // alignment) * alignment * _constant(module, kind.operands[1], specs), alignment
    if kind.opcode == Opcode.TYPE_STRUCT:
        total, widest = 0, 1
        for member in kind.operands:
            size, alignment = _layout(module, member, specs)
            total = -(-total // alignment) * alignment + size
            widest = max(widest, alignment)
        return -(-total // widest) * widest, widest
    raise ShaderError(
        f"SPIR-V: shared memory of {module.scalar_text(type_id)}; use scalars, vectors, arrays and structs of them"
    )

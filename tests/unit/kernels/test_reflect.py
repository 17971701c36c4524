"""The SPIR-V reader: what is declared, in the words of the manifest."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from zeropoint.errors import ShaderError
from zeropoint.kernels import spirv
from zeropoint.kernels.reflect import Binding, Interface, PushField, SpecConstant, reflect
from zeropoint.kernels.usage import usage

from .test_capabilities import compiled

SHADER = """
#extension GL_EXT_shader_8bit_storage : require
layout(local_size_x = 8, local_size_y = 4) in;
layout(constant_id = 3) const bool FLAG = true;
layout(constant_id = 1) const int STEP = -2;
layout(push_constant) uniform Push { uint n; int m; float eps; };
layout(binding = 4, rgba8i) uniform readonly iimage2D zp;
layout(binding = 1) readonly buffer W { uvec4 w[]; };
layout(binding = 0) readonly buffer X { int8_t x[]; };
layout(binding = 7) writeonly buffer Y { float y[]; };
layout(binding = 8) buffer Count { uint count[]; };
struct Pair { vec3 a; float b; bool c; };
shared float part[3];
shared Pair pairs[2];
void helper(uint at, int value) { y[at] = float(value) * eps; }
void main() {
  part[0] = 1.0;
  pairs[0].c = FLAG;
  helper(n, int(x[STEP]) + imageLoad(zp, ivec2(0)).x);
  atomicAdd(count[0], w.length());
}
"""


@pytest.fixture
def module(tmp_path: Path) -> spirv.Module:
    return spirv.parse(compiled(tmp_path, SHADER))


def test_interface(module: spirv.Module) -> None:
    found = reflect(module)
    assert found == Interface(
        bindings=(
            Binding("x", 0, 0, "buffer", "i8", readable=True, writable=False, coherent=False),
            Binding("w", 0, 1, "buffer", "u32x4", readable=True, writable=False, coherent=False),
            Binding("zp", 0, 4, "image", "rgba8i of i32", readable=True, writable=False, coherent=False),
            Binding("y", 0, 7, "buffer", "f32", readable=False, writable=True, coherent=False),
            Binding("count", 0, 8, "buffer", "u32", readable=True, writable=True, coherent=False),
        ),
        pushes=(PushField("n", 0, "u32"), PushField("m", 4, "i32"), PushField("eps", 8, "f32")),
        specs=(SpecConstant(1, "STEP", "i32", 2**32 - 2), SpecConstant(3, "FLAG", "bool", 1)),
        local_size=(8, 4, 1),
        local_size_specs=(),
        # part: 12 bytes, padded to 16; Pair: vec3 at 0, b at 12, c at 16, padded to 32.
        shared_bytes=16 + 2 * 32,
        shared_specs=(),
        capabilities=(1, 4448),
        extensions=("SPV_KHR_8bit_storage",),
    )
    assert module.version == (1, 3)


def test_usage_follows_pointers_through_functions(module: spirv.Module) -> None:
    found = usage(module)
    assert found.read == {0, 4, 8}  # w only gives its length
    assert found.written == {7, 8}
    assert found.pushes == {0, 8}
    assert found.specs == {1, 3}


@pytest.mark.parametrize(
    ("layout", "size", "specs"),
    [
        ("local_size_x = 5", (5, 1, 1), ()),
        ("local_size_x = 5, local_size_y_id = 9", (5, 1, 1), (9,)),
        ("local_size_x_id = 2, local_size_z_id = 1", (1, 1, 1), (2, 1)),
    ],
)
def test_local_size(tmp_path: Path, layout: str, size: tuple[int, int, int], specs: tuple[int, ...]) -> None:
    found = reflect(spirv.parse(compiled(tmp_path, f"layout({layout}) in;\nvoid main() {{}}")))
    assert (found.local_size, found.local_size_specs) == (size, specs)


def test_shared_memory_sized_by_a_specialization_constant(tmp_path: Path) -> None:
    body = "layout(constant_id = 6) const uint N = 4;\nshared vec4 s[N];\nvoid main() { s[0] = vec4(1); }"
    found = reflect(spirv.parse(compiled(tmp_path, f"layout(local_size_x = 1) in;\n{body}")))
    assert (found.shared_bytes, found.shared_specs) == (64, (6,))


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


HEADER = (spirv.MAGIC, 0x10300, 0, 8, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "SPIR-V: 0 bytes that do not begin with a SPIR-V header; the compiler is broken"),
        (words(*HEADER)[:-1], "SPIR-V: 19 bytes that do not begin with a SPIR-V header; the compiler is broken"),
        (words(1, *HEADER), "SPIR-V: 24 bytes that do not begin with a SPIR-V header; the compiler is broken"),
        (words(*HEADER, 3 << 16 | 17, 1), "SPIR-V: word 5: an instruction of 3 words; 2 are left"),
        (words(*HEADER, 17), "SPIR-V: word 5: an instruction of 0 words; 1 are left"),
    ],
)
def test_no_spirv(data: bytes, message: str) -> None:
    with pytest.raises(ShaderError) as error:
        spirv.parse(data)
    assert str(error.value) == message


def test_no_local_size() -> None:
    with pytest.raises(
        ShaderError, match=r"^SPIR-V: no local size; give the shader layout\(local_size_x = \.\.\.\) in$"
    ):
        reflect(spirv.parse(words(*HEADER)))


def test_shared_memory_of_a_strange_type(tmp_path: Path) -> None:
    body = "shared mat4 m;\nvoid main() { m[0] = vec4(1); }"
    with pytest.raises(
        ShaderError, match=r"^SPIR-V: shared memory of a type of opcode 24; use scalars, vectors, arrays"
    ):
        reflect(spirv.parse(compiled(tmp_path, f"layout(local_size_x = 1) in;\n{body}")))

"""glslang 13 inside this process, through its C interface: an accelerator for `toolchain.glslang`.

A glslang process spends four fifths of its time on its built-in symbols; a library does it once. The two give the same
bytes (a test compares them). What fails here is compiled again by the program, whose text and command line the user
can repeat. Source of the layouts: glslang 13.1.1, glslang_c_interface.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_FILES = ("libglslang.so.13", "libSPIRV.so.13", "libglslang-default-resource-limits.so.13")
_SOURCE_GLSL, _STAGE_COMPUTE, _CLIENT_VULKAN, _TARGET_SPV, _CORE_PROFILE = 1, 5, 1, 1, 2
_VULKAN_1_1, _SPV_1_3 = (1 << 22) | (1 << 12), (1 << 16) | (3 << 8)
_MESSAGES = 1 << 3 | 1 << 4  # SPIR-V rules, Vulkan rules


class _IncludeResult(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_char_p), ("length", ctypes.c_size_t))


_INCLUDE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_FREE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Input(ctypes.Structure):
    _fields_ = (
        ("language", ctypes.c_int),
        ("stage", ctypes.c_int),
        ("client", ctypes.c_int),
        ("client_version", ctypes.c_int),
        ("target_language", ctypes.c_int),
        ("target_language_version", ctypes.c_int),
        ("code", ctypes.c_char_p),
        ("default_version", ctypes.c_int),
        ("default_profile", ctypes.c_int),
        ("force_default_version_and_profile", ctypes.c_int),
        ("forward_compatible", ctypes.c_int),
        ("messages", ctypes.c_int),
        ("resource", ctypes.c_void_p),
        ("include_system", _INCLUDE),
        ("include_local", _INCLUDE),
        ("free_include_result", _FREE),
        ("callbacks_ctx", ctypes.c_void_p),
    )


@cache
def load_library(folder: Path) -> GlslangLibrary | None:
    """The glslang 13 libraries in `folder`, or None where they are not, or do not load."""
    if not all((folder / name).is_file() for name in _FILES):
        return None
    try:
        return GlslangLibrary(folder)
    except (OSError, AttributeError):
        return None


class GlslangLibrary:
    """Thread-safe after construction; ctypes releases the interpreter lock while glslang works."""

    def __init__(self, folder: Path) -> None:
        # The SPIR-V library takes its symbols from the front end without naming it.
        front, spirv, limits = (ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in _FILES)
        front.glslang_shader_create.restype = ctypes.c_void_p
        front.glslang_program_create.restype = ctypes.c_void_p
        spirv.glslang_program_SPIRV_get_size.restype = ctypes.c_size_t
        limits.glslang_default_resource.restype = ctypes.c_void_p
        front.glslang_initialize_process()
        self._front = front
        self._spirv = spirv
        self._limits = limits.glslang_default_resource()

    def compile(self, source: Path, preamble: str, include: Path) -> bytes | None:
        """SPIR-V 1.3 of a compute shader, or None when glslang refuses it. `preamble` goes behind `#version`."""
        # glslang_shader_set_preamble would put extensions before #version in the preprocessed text, which is refused.
        first, newline, rest = source.read_text(encoding="utf-8").partition("\n")
        if not first.startswith("#version"):
            return None
        keep: dict[int, tuple[object, ...]] = {}

        def include_local(_: int, name: bytes, includer: bytes, depth: int) -> int | None:
            places = (source.parent / name.decode(), include / name.decode())
            path = next((place for place in places if place.is_file()), None)
            if path is None:
                return None
            data = path.read_bytes()
            result = _IncludeResult(str(path).encode(), data, len(data))
            keep[ctypes.addressof(result)] = (result, data)
            return ctypes.addressof(result)

        callbacks = (_INCLUDE(include_local), _FREE(lambda _, result: 0))
        request = _Input(
            language=_SOURCE_GLSL,
            stage=_STAGE_COMPUTE,
            client=_CLIENT_VULKAN,
            client_version=_VULKAN_1_1,
            target_language=_TARGET_SPV,
            target_language_version=_SPV_1_3,
            code=f"{first}{newline}{preamble}{rest}".encode(),
            default_version=100,
            default_profile=_CORE_PROFILE,
            messages=_MESSAGES,
            resource=self._limits,
            include_system=callbacks[0],
            include_local=callbacks[0],
            free_include_result=callbacks[1],
        )
        shader = ctypes.c_void_p(self._front.glslang_shader_create(ctypes.byref(request)))
        program = ctypes.c_void_p(self._front.glslang_program_create())
        try:
            if not self._front.glslang_shader_preprocess(shader, ctypes.byref(request)):
                return None
            if not self._front.glslang_shader_parse(shader, ctypes.byref(request)):
                return None
            self._front.glslang_program_add_shader(program, shader)
            if not self._front.glslang_program_link(program, _MESSAGES):
                return None
            return self._words(program)
        finally:
            self._front.glslang_program_delete(program)
            self._front.glslang_shader_delete(shader)

    def _words(self, program: ctypes.c_void_p) -> bytes:
        self._spirv.glslang_program_SPIRV_generate(program, _STAGE_COMPUTE)
        words = (ctypes.c_uint32 * self._spirv.glslang_program_SPIRV_get_size(program))()
        self._spirv.glslang_program_SPIRV_get(program, words)
        return bytes(words)


def preamble_text(macros: Sequence[tuple[str, str]], extensions: Sequence[str]) -> str:
    """What the program's -D and -P options put behind `#version`, in its order."""
    lines = [f"#define {name} {value}" for name, value in macros]
    lines += [f"#extension {name} : require" for name in extensions]
    return "".join(f"{line}\n" for line in lines)

"""Opens libzeropoint.so and declares its C interface (native/zeropoint.h)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache
from pathlib import Path

from ..errors import RuntimeFailure

MAX_RANK = 8
KEEP_ALL = 1
PROFILE = 2


class TensorStruct(ctypes.Structure):
    """zp_tensor: a dense row-major host tensor. rank < 0 stands for an unbound slot in zp_evaluate."""

    _fields_ = (
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * MAX_RANK),
        ("data", ctypes.c_void_p),
        ("size_bytes", ctypes.c_uint64),
    )


class ConstantStruct(ctypes.Structure):
    """zp_constant."""

    _fields_ = (("key", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size_bytes", ctypes.c_uint64))


class OpStruct(ctypes.Structure):
    """zp_op: one operation of an expression."""

    _fields_ = (("value", ctypes.c_int64), ("arg", ctypes.c_uint16), ("code", ctypes.c_uint8))


_U32, _U64, _TEXT, _DATA = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_void_p
_U64_POINTER, _TENSORS = ctypes.POINTER(_U64), ctypes.POINTER(TensorStruct)
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "zp_version": (_TEXT, ()),
    "zp_last_error": (_TEXT, ()),
    "zp_clear_error": (None, ()),
    "zp_devices": (_TEXT, ()),
    "zp_library": (_DATA, (_U64_POINTER,)),
    "zp_load": (
        ctypes.c_int,
        (_DATA, _U64, ctypes.POINTER(ConstantStruct), _U64, _DATA, _U64, _U32, _U64_POINTER),
    ),
    "zp_unload": (ctypes.c_int, (_U64,)),
    "zp_describe": (_TEXT, (_U64,)),
    "zp_output_shapes": (ctypes.c_int, (_U64, _TENSORS, _U64, _TENSORS, _U64)),
    "zp_execute": (ctypes.c_int, (_U64, _TENSORS, _U64, _TENSORS, _U64)),
    "zp_reset": (ctypes.c_int, (_U64,)),
    "zp_picks": (_TEXT, (_U64,)),
    "zp_counters": (_TEXT, ()),
    "zp_validation": (_TEXT, (ctypes.c_int,)),
    "zp_programs": (_TEXT, ()),
    "zp_default_flags": (None, (_U32,)),
    "zp_read_tensor": (ctypes.c_int, (_U64, _U32, _DATA, _U64_POINTER)),
    "zp_evaluate": (
        ctypes.c_int,
        (
            ctypes.POINTER(OpStruct),
            _U64,
            _TENSORS,
            _U64,
            ctypes.POINTER(ctypes.c_int64),
            _U64,
            ctypes.POINTER(ctypes.c_int64),
        ),
    ),
}


def library_path() -> Path:
    """Where libzeropoint.so is: ZEROPOINT_PLAYER, otherwise the package's own lib folder."""
    chosen = os.environ.get("ZEROPOINT_PLAYER")
    path = Path(chosen) if chosen else Path(__file__).parents[1] / "lib" / "libzeropoint.so"
    if not path.is_file():
        raise RuntimeFailure(
            f"player: no file {path}; build it (cmake --build build/dev) and set ZEROPOINT_PLAYER, or install the wheel"
        )
    return path


def executorch_library() -> Path:
    """ExecuTorch's shared runtime, which the player must share with executorch.runtime."""
    spec = importlib.util.find_spec("executorch")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    for place in places:
        path = Path(place) / "lib" / "libexecutorch.so"
        if path.is_file():
            return path
    raise RuntimeFailure("player: no executorch/lib/libexecutorch.so; pip install executorch==1.5.1")


@cache
def open_library() -> ctypes.CDLL:
    """The player, opened once. Registers ZeropointBackend with ExecuTorch; makes no Vulkan call."""
    path = library_path()
    ctypes.CDLL(str(executorch_library()), ctypes.RTLD_GLOBAL)
    try:
        library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise RuntimeFailure(f"player: {path} does not open: {error}") from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def check(code: int) -> None:
    """Raises RuntimeFailure with the player's text unless the code is 0."""
    if code != 0:
        raise RuntimeFailure(last_error())


def last_error() -> str:
    """Why the player last refused or failed in this thread, in one line; empty when it did not.

    ExecuTorch's own errors are numbers: after one from `load_method` or `execute`, this is the sentence. Each thread
    has its own, which stays until its next failure. zeropoint's own functions and commands raise with it.
    """
    text: bytes = open_library().zp_last_error()
    return text.decode()


def clear_error() -> None:
    """Forgets this thread's last error."""
    open_library().zp_clear_error()


def text_of(answer: bytes | None) -> str:
    """A returned string; NULL raises RuntimeFailure with the player's text."""
    if answer is None:
        raise RuntimeFailure(last_error())
    return answer.decode()

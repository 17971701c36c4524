"""Runs Programs on the player directly, without ExecuTorch: what the tests of kernels and `verify` use.

    program, constants = builder.build()
    with LoadedProgram(program, constants, keep_all=True) as loaded:
        (y,) = loaded.execute([x])                # numpy in, numpy out; bf16 travels as uint16
        loaded.picks()[0].key                     # 'rms_norm/shared[x=f32:buffer,y=f32:buffer]'
        loaded.read_tensor(3)                     # any tensor of the Program, after a run with keep_all
    loaded = LoadedProgram(program, constants, library=Path("kernels.zpl").read_bytes())  # another kernel library

ZEROPOINT_DEVICE, ZEROPOINT_DISABLE and ZEROPOINT_CACHE_DIR are read at each load, ZEROPOINT_VALIDATION once.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RuntimeFailure
from . import library as native

if TYPE_CHECKING:
    from ..program import Program

# In the order of HostDType in program.fbs. bf16 has no numpy type: its bits travel as uint16.
_HOST = ("f32", "f16", "bf16", "i64", "i32", "i8", "u8", "boolean")
_HOST_NUMPY: dict[str, Any] = {
    "f32": np.float32, "f16": np.float16, "bf16": np.uint16, "i64": np.int64,
    "i32": np.int32, "i8": np.int8, "u8": np.uint8, "boolean": np.bool_,
}  # fmt: skip
_DEVICE_NUMPY: dict[str, Any] = {
    "f32": np.float32, "f16": np.float16, "i32": np.int32, "i8": np.int8, "u8": np.uint8, "i4": np.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a loaded Program; dims are those of the last run."""

    name: str
    dtype: str
    storage: str
    memory: str
    dims: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Pick:
    """What ran for one kernel call. time_ns is None unless the program was loaded with profile=True.

    signature: what a file of choices knows the call by. candidates: the algorithms that the device can run, in the
    manifest's order, whether their guards hold for this shape or not.
    """

    call: int
    name: str
    kernel: str
    algorithm: str
    key: str
    grid: tuple[int, int, int]
    specs: Mapping[str, int]
    time_ns: int | None
    signature: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """The file of a device that names algorithms to take before the manifest's, and its lines at a program's load.

    path: None without a cache folder.
    """

    path: Path | None
    count: int


@dataclass(frozen=True, slots=True)
class Validation:
    """Messages of Vulkan's validation layers; `active` when ZEROPOINT_VALIDATION=1 was set at the first use."""

    active: bool
    count: int
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveProgram:
    """A program that lives in the player, ExecuTorch's included; method is ExecuTorch's name for it."""

    id: int
    method: str
    flags: int


class LoadedProgram:
    """A Program on a device. Closing it, or dropping the last reference, frees its memory."""

    def __init__(
        self,
        program: Program | bytes,
        constants: Mapping[str, bytes | np.ndarray] | None = None,
        *,
        library: bytes | None = None,
        keep_all: bool = False,
        profile: bool = False,
    ) -> None:
        """Loads a Program or its serialized bytes.

        library: a kernel library's bytes in place of the embedded one. keep_all: every tensor keeps its bytes after a
        run. profile: GPU time per call. Raises RuntimeFailure with the player's text.
        """
        self._id = 0
        blob = program if isinstance(program, bytes) else _serialized(program)
        payloads = {key: _bytes_of(data) for key, data in (constants or {}).items()}
        table = (native.ConstantStruct * max(len(payloads), 1))(
            *(native.ConstantStruct(key.encode(), data.ctypes.data, data.nbytes) for key, data in payloads.items())
        )
        flags = (native.KEEP_ALL if keep_all else 0) | (native.PROFILE if profile else 0)
        handle = ctypes.c_uint64()
        native.check(
            native.open_library().zp_load(
                blob, len(blob), table, len(payloads), library, len(library or b""), flags, ctypes.byref(handle)
            )
        )
        self._id = handle.value
        self._shapes: tuple[list[Any], tuple[tuple[int, ...], ...]] = [], ()  # of the last inputs, and of their outputs
        self._describe()

    def close(self) -> None:
        """Frees the program. Harmless when repeated."""
        if self._id:
            native.check(native.open_library().zp_unload(self._id))
            self._id = 0

    def __enter__(self) -> LoadedProgram:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_id", 0):
            self.close()

    def execute(self, inputs: Sequence[np.ndarray | int]) -> tuple[np.ndarray, ...]:
        """Runs and waits. Inputs in the Program's order; an integer gives a symbol its value."""
        player = native.open_library()
        arrays = [
            np.asarray(item, np.int64) if isinstance(item, int) else np.asarray(item, order="C") for item in inputs
        ]
        if len(arrays) != len(self._input_dtypes):
            raise RuntimeFailure(f"execute: {len(arrays)} inputs; the program has {len(self._input_dtypes)}")
        given = _tensors(arrays, self._input_dtypes)
        n_outputs = len(self._output_dtypes)
        # Shapes and integers alone decide on the outputs' shapes, which a caller of many tokens asks for but once.
        key, (known, shapes) = [array.shape or array.item() for array in arrays], self._shapes
        if known != key or not shapes:
            wanted = (native.TensorStruct * max(n_outputs, 1))()
            native.check(player.zp_output_shapes(self._id, given, len(arrays), wanted, n_outputs))
            shapes = tuple(tuple(wanted[i].dims[: wanted[i].rank]) for i in range(n_outputs))
            self._shapes = key, shapes
        outputs = [
            np.empty(shape, _HOST_NUMPY[dtype]) for shape, dtype in zip(shapes, self._output_dtypes, strict=True)
        ]
        taken = _tensors(outputs, self._output_dtypes)
        native.check(player.zp_execute(self._id, given, len(arrays), taken, n_outputs))
        return tuple(outputs)

    def reset(self) -> None:
        """Gives the program's states (KV caches) their first contents."""
        native.check(native.open_library().zp_reset(self._id))

    def picks(self) -> tuple[Pick, ...]:
        """What the last run did, one per kernel call; empty before the first run."""
        return picks_of(self._id)

    def choices(self) -> Choices:
        """The choices that the program was loaded with."""
        return choices_of(self._id)

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor of the Program."""
        return self._describe()

    def read_tensor(self, index: int) -> np.ndarray:
        """A tensor's elements after the last run, shaped; i4 as bytes, two elements each along the last dimension."""
        return read_tensor(self._id, index)

    def _describe(self) -> tuple[TensorInfo, ...]:
        answer = json.loads(native.text_of(native.open_library().zp_describe(self._id)))
        self._input_dtypes, self._output_dtypes = tuple(answer["inputs"]), tuple(answer["outputs"])
        return _tensor_infos(answer)


def reset_states() -> None:
    """Gives the states (KV caches) of every live program of this process their first contents."""
    native.check(native.open_library().zp_reset(0))


def read_tensor(program_id: int, index: int) -> np.ndarray:
    """LoadedProgram.read_tensor for any live program: see programs()."""
    player = native.open_library()
    infos = tensors_of(program_id)
    if not 0 <= index < len(infos):
        raise RuntimeFailure(f"read_tensor: tensor {index}; the program has {len(infos)}")
    info = infos[index]
    raw = np.empty(info.size_bytes, np.uint8)
    size = ctypes.c_uint64(raw.nbytes)
    native.check(player.zp_read_tensor(program_id, index, raw.ctypes.data, ctypes.byref(size)))
    shape = info.dims if info.dtype != "i4" else (*info.dims[:-1], info.dims[-1] // 2)
    elements: np.ndarray = raw[: size.value].view(_DEVICE_NUMPY[info.dtype]).reshape(shape)
    return elements


def picks_of(program_id: int) -> tuple[Pick, ...]:
    """LoadedProgram.picks for any live program."""
    answer = json.loads(native.text_of(native.open_library().zp_picks(program_id)))
    return tuple(
        Pick(**{**item, "grid": tuple(item["grid"]), "candidates": tuple(item["candidates"])}) for item in answer
    )


def tensors_of(program_id: int) -> tuple[TensorInfo, ...]:
    """LoadedProgram.tensors for any live program."""
    return _tensor_infos(json.loads(native.text_of(native.open_library().zp_describe(program_id))))


def device_of(program_id: int) -> str:
    """The name of the device that a live program runs on."""
    name: str = json.loads(native.text_of(native.open_library().zp_describe(program_id)))["device"]
    return name


def choices_of(program_id: int) -> Choices:
    """LoadedProgram.choices for any live program."""
    answer = json.loads(native.text_of(native.open_library().zp_describe(program_id)))
    name = os.fsdecode(answer["choices"].encode("latin-1"))  # the player writes each byte as a character
    return Choices(Path(name) if name else None, answer["n_choices"])


def programs() -> tuple[LiveProgram, ...]:
    """Every live program of this process, those that ExecuTorch loaded included."""
    return tuple(LiveProgram(**item) for item in json.loads(native.text_of(native.open_library().zp_programs())))


@contextmanager
def load_flags(*, keep_all: bool = False, profile: bool = False) -> Iterator[None]:
    """Every program loaded inside, through ExecuTorch too, has these flags."""
    flags = (native.KEEP_ALL if keep_all else 0) | (native.PROFILE if profile else 0)
    native.open_library().zp_default_flags(flags)
    try:
        yield
    finally:
        native.open_library().zp_default_flags(0)


def counters() -> dict[str, int]:
    """Process-wide counters: programs, loads, executes, recordings, submits, pipelines, device memory, constants."""
    answer: dict[str, int] = json.loads(native.text_of(native.open_library().zp_counters()))
    return answer


def validation(*, clear: bool = False) -> Validation:
    """Messages of the validation layers so far; clear forgets them afterwards."""
    answer = json.loads(native.text_of(native.open_library().zp_validation(int(clear))))
    return Validation(answer["active"], answer["count"], tuple(answer["messages"]))


def kernel_library() -> bytes:
    """The kernel library that is embedded in the player."""
    size = ctypes.c_uint64()
    return ctypes.string_at(native.open_library().zp_library(ctypes.byref(size)), size.value)


def verify_blob(blob: bytes, *, library: bytes | None = None) -> None:
    """Verifies a Program's bytes as a load does, without a device. Raises RuntimeFailure."""
    no_constants = (native.ConstantStruct * 1)()
    native.check(native.open_library().zp_load(blob, len(blob), no_constants, 0, library, len(library or b""), 0, None))


def _tensor_infos(answer: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(**{**item, "dims": tuple(item["dims"])}) for item in answer["tensors"])


def _tensors(arrays: Sequence[np.ndarray], dtypes: Sequence[str]) -> ctypes.Array[native.TensorStruct]:
    """Describes arrays to the player; the caller keeps them alive."""
    structs = (native.TensorStruct * max(len(arrays), 1))()
    for index, (struct, array, dtype) in enumerate(zip(structs, arrays, dtypes, strict=False)):
        if array.dtype != _HOST_NUMPY[dtype]:
            raise RuntimeFailure(f"execute: input[{index}]: {array.dtype}; need {np.dtype(_HOST_NUMPY[dtype])}")
        if array.ndim > native.MAX_RANK:
            raise RuntimeFailure(f"execute: input[{index}]: {array.ndim} dimensions; at most {native.MAX_RANK}")
        struct.dtype, struct.rank = _HOST.index(dtype), array.ndim
        struct.dims[: array.ndim] = array.shape
        struct.data, struct.size_bytes = _address(array), array.nbytes
    return structs


def _address(array: np.ndarray) -> int:
    """Its `ctypes.data`, which takes three times as long."""
    view = array.data
    if array.size and not view.readonly:  # flags.writeable is another matter: numpy has arrays that only warn
        return ctypes.addressof(ctypes.c_char.from_buffer(view))
    return array.ctypes.data


def _bytes_of(data: bytes | np.ndarray) -> np.ndarray:
    """Where they lie: a mapped file is not read here."""
    if isinstance(data, bytes):
        return np.frombuffer(data, np.uint8)
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8)


def _serialized(program: Program) -> bytes:
    from ..program.io import write_program

    return write_program(program)

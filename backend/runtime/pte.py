"""Where a .pte and ExecuTorch's calls come in: what is wrong with either is one error of ours, with its reason."""

from __future__ import annotations

import contextlib
import io
import logging
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from executorch.exir import schema
from executorch.exir._serialize._program import _flatbuffer_to_program, _get_extended_header
from executorch.runtime import Program, Runtime

from ..errors import ProgramError, RuntimeFailure
from . import library

T = TypeVar("T")
_LOGGER = logging.getLogger("zeropoint.executorch")
# What ExecuTorch's reader raises on tables that its verifier passes: text that is no UTF-8, unknown enum values, ...
_MALFORMED = (struct.error, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Pte:
    """A .pte with sound tables. loaded: keep it as long as its methods. segments: views of the file."""

    loaded: Program
    tables: schema.Program
    segments: tuple[memoryview, ...]


def read_pte(source: Path | bytes) -> Pte:
    """Maps a .pte, lets ExecuTorch verify its tables, and checks what that passes over and fails at later.

    Raises ProgramError. Not by ExecuTorch's deserialize_pte_binary, which copies every constant three times.
    """
    data = memoryview(source) if isinstance(source, bytes) else _mapped(source)
    where = "the bytes" if isinstance(source, bytes) else str(source)
    if bytes(data[4:6]) != b"ET":
        raise ProgramError(f"{where}: identifier {bytes(data[4:8])!r}; need an ExecuTorch .pte file")
    header = _get_extended_header(bytes(data[:64]))
    base = 0 if header is None else header.segment_base_offset
    size = len(data) if header is None else header.program_size
    if header is not None and max(size, base + header.segment_data_size) > len(data):
        need = max(size, base + header.segment_data_size)
        raise ProgramError(f"{where}: {len(data)} bytes; need {need}; export it again")
    try:
        loaded = reported(where, lambda: Runtime.get().load_program(source))
        tables = _flatbuffer_to_program(bytes(data[:size]))
    except (RuntimeFailure, *_MALFORMED) as error:
        reason = str(error).removeprefix(f"{where}: ")
        raise ProgramError(f"{where}: ExecuTorch's tables are damaged ({reason}); export it again") from error
    end = max((base + item.offset + item.size for item in tables.segments or ()), default=0)
    if end > len(data):
        raise ProgramError(f"{where}: {len(data)} bytes; its last segment ends at {end}; export it again")
    segments = tuple(data[base + item.offset : base + item.offset + item.size] for item in tables.segments or ())
    for plan in tables.execution_plan or ():
        _check_plan(f"{where}: method {plan.name}", plan, tables, len(segments))
    for index, item in enumerate(tables.named_data or ()):
        _check_index(f"{where}: named data {index}", "segment", item.segment_index, len(segments))
    return Pte(loaded, tables, segments)


def reported(where: str, call: Callable[[], T]) -> T:
    """Calls ExecuTorch. Its errors are numbers: RuntimeFailure gives the player's reason, or ExecuTorch's first note.

    What ExecuTorch would write to stderr goes to the logger `zeropoint.executorch`.
    """
    notes = io.StringIO()
    library.clear_error()
    try:
        with contextlib.redirect_stderr(notes):
            return call()
    except (RuntimeError, LookupError, ValueError, MemoryError) as error:  # all that its bindings raise
        lines = [line.partition("] ")[2] or line for line in notes.getvalue().splitlines()]
        reason = library.last_error() or next(iter(lines), str(error) or type(error).__name__)
        raise RuntimeFailure(f"{where}: {reason}") from error
    finally:
        for line in notes.getvalue().splitlines():
            _LOGGER.info(line)


def _check_plan(where: str, plan: schema.ExecutionPlan, tables: schema.Program, n_segments: int) -> None:
    """What would make ExecuTorch abort, take all memory, or read another table."""
    for what, indices in (("input", plan.inputs), ("output", plan.outputs)):
        for place, index in enumerate(indices or ()):
            _check_index(f"{where}: {what} {place}", "value", index, len(plan.values or ()))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    planned = sum(plan.non_const_buffer_sizes or ())
    if planned > memory:
        raise ProgramError(f"{where}: {planned} bytes of planned memory; this machine has {memory}; export it again")
    for place, delegate in enumerate(plan.delegates or ()):
        inline = delegate.processed.location is schema.DataLocation.INLINE
        count = len(tables.backend_delegate_data or ()) if inline else n_segments
        _check_index(f"{where}: delegate {place}", "blob", delegate.processed.index, count)


def _check_index(where: str, what: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise ProgramError(f"{where}: {what} {index}; the file has {count}; it is damaged; export it again")


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")

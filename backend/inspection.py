"""Reads the Programs back out of a .pte."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from executorch.exir._serialize._program import _flatbuffer_to_program, _get_extended_header
from executorch.exir.schema import DataLocation

from .errors import ProgramError
from .preprocess import BACKEND_ID
from .program import Program
from .serialization.program_io import read_program


@dataclass(frozen=True, slots=True)
class Delegate:
    """One delegate of ours: the method that calls it, its index among that method's delegates, and what it holds."""

    method: str
    index: int
    blob: bytes

    @property
    def program(self) -> Program:
        """The verified Program."""
        return read_program(self.blob)


@dataclass(frozen=True, slots=True)
class Inspection:
    """Our delegates of a .pte, in file order, and the bytes of their constants by key. Prints every Program.

    constants: views of the file, which is not read before they are. Those in a .ptd are not among them.
    """

    delegates: tuple[Delegate, ...]
    constants: dict[str, memoryview]

    @property
    def programs(self) -> tuple[Program, ...]:
        return tuple(delegate.program for delegate in self.delegates)

    def __str__(self) -> str:
        return "\n".join(f"{item.method} delegate {item.index}\n{item.program}" for item in self.delegates)


def inspect(source: str | PathLike[str] | bytes) -> Inspection:
    """Our delegates in a .pte, given as a path or as its bytes. Raises ProgramError when it is no .pte.

    Not by ExecuTorch's deserialize_pte_binary, which copies every constant three times.
    """
    data = memoryview(source) if isinstance(source, bytes) else _mapped(Path(source))
    where = "the bytes" if isinstance(source, bytes) else str(source)
    if bytes(data[4:6]) != b"ET":
        raise ProgramError(f"inspect: {where}: identifier {bytes(data[4:8])!r}; need an ExecuTorch .pte file")
    header = _get_extended_header(bytes(data[:64]))
    if header is not None and header.program_size > len(data):
        raise ProgramError(f"inspect: {where}: {len(data)} bytes; need {header.program_size} and more; export it again")
    program = _flatbuffer_to_program(bytes(data if header is None else data[: header.program_size]))
    base = 0 if header is None else header.segment_base_offset
    end = max((base + item.offset + item.size for item in program.segments), default=0)
    if end > len(data):
        raise ProgramError(f"inspect: {where}: {len(data)} bytes; its last segment ends at {end}; export it again")
    segments = [data[base + item.offset : base + item.offset + item.size] for item in program.segments]
    found = []
    for plan in program.execution_plan:
        for index, delegate in enumerate(plan.delegates):
            if delegate.id != BACKEND_ID:
                continue
            place = delegate.processed
            inline = place.location is DataLocation.INLINE
            blob = program.backend_delegate_data[place.index].data if inline else segments[place.index]
            found.append(Delegate(plan.name, index, bytes(blob)))
    return Inspection(tuple(found), {item.key: segments[item.segment_index] for item in program.named_data or ()})


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")

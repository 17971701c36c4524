"""Reads the Programs back out of a .pte."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from executorch.exir._serialize._program import deserialize_pte_binary
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

    Constants in a .ptd are not among them.
    """

    delegates: tuple[Delegate, ...]
    constants: dict[str, bytes]

    @property
    def programs(self) -> tuple[Program, ...]:
        return tuple(delegate.program for delegate in self.delegates)

    def __str__(self) -> str:
        return "\n".join(f"{item.method} delegate {item.index}\n{item.program}" for item in self.delegates)


def inspect(source: str | PathLike[str] | bytes) -> Inspection:
    """Our delegates in a .pte, given as a path or as its bytes. Raises ProgramError when it is no .pte."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if data[4:6] != b"ET":
        where = "the bytes" if isinstance(source, bytes) else str(source)
        raise ProgramError(f"inspect: {where}: identifier {data[4:8]!r}; need an ExecuTorch .pte file")
    file = deserialize_pte_binary(data)
    found = []
    for plan in file.program.execution_plan:
        for index, delegate in enumerate(plan.delegates):
            if delegate.id != BACKEND_ID:
                continue
            assert delegate.processed.location is DataLocation.INLINE  # deserializing moves every blob inline
            blob = bytes(file.program.backend_delegate_data[delegate.processed.index].data)
            found.append(Delegate(plan.name, index, blob))
    named = file.named_data
    constants = (
        {} if named is None else {key: bytes(named.buffers[e.buffer_index]) for key, e in named.pte_data.items()}
    )
    return Inspection(tuple(found), constants)

"""Reads the Programs back out of a .pte."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from executorch.exir.schema import DataLocation

from .preprocess import BACKEND_ID
from .program import Program
from .pte import read_pte
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
    """Our delegates in a .pte, given as a path or as its bytes. Raises ProgramError when it is none, or damaged."""
    pte = read_pte(source if isinstance(source, bytes) else Path(source))
    found = []
    for plan in pte.tables.execution_plan or ():
        for index, delegate in enumerate(plan.delegates or ()):
            if delegate.id != BACKEND_ID:
                continue
            place = delegate.processed
            inline = place.location is DataLocation.INLINE
            blob = pte.tables.backend_delegate_data[place.index].data if inline else pte.segments[place.index]
            found.append(Delegate(plan.name, index, bytes(blob)))
    named = {item.key: pte.segments[item.segment_index] for item in pte.tables.named_data or ()}
    return Inspection(tuple(found), named)

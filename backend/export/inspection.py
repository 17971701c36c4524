"""Reads the Programs back out of a .pte."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import xxhash
from executorch.exir.schema import DataLocation

from ..errors import ProgramError
from ..program import Program
from ..program.io import read_program
from ..runtime.pte import read_pte
from .preprocess import BACKEND_ID


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

    def check_constants(self) -> None:
        """Reads every constant. Raises ProgramError for one whose bytes are not those that the export wrote.

        Programs of versions 1 to 3 have keys that nothing ever compared with the bytes: theirs are not checked.
        """
        names = {
            tensor.constant: f"{delegate.method} delegate {delegate.index}: constant {tensor.name}"
            for delegate, program in zip(self.delegates, self.programs, strict=True)
            for tensor in program.tensors
            if tensor.constant and program.version >= 4
        }
        for key, data in self.constants.items():
            if key in names and xxhash.xxh3_128_hexdigest(data) != key:
                raise ProgramError(f"{names[key]}: its bytes have another hash than its key {key}; the file is damaged")

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

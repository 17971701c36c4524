"""The Program: its data, what must hold of it, and its text."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import verify
from .data import ProgramData
from .text import program_text


@dataclass(frozen=True, slots=True)
class Program(ProgramData):
    """Everything the player needs besides the constants' bytes. `str(program)` is the golden text."""

    def verify(self) -> None:
        """Raises ProgramError at the first broken invariant that the player relies on, naming call, slot and tensor."""
        verify(self)

    def __str__(self) -> str:
        return program_text(self)

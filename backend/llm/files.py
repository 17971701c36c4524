"""Names of what belongs to a text model on disk."""

from __future__ import annotations

from pathlib import Path

from ..errors import OptionError

ENCODE = "encode"  # the method of an encoder with a decoder that reads what the answer is about


def tokenizer_path(program: Path) -> Path:
    """smollm2.pte -> smollm2.tokenizer.json"""
    return program.with_suffix(".tokenizer.json")


def check_output(path: Path) -> None:
    """Raises OptionError before any work when a .pte cannot be written there."""
    if path.suffix != ".pte":
        raise OptionError(f"export: {path}: suffix {path.suffix!r}; need .pte")
    if not path.parent.is_dir():
        raise OptionError(f"export: {path}: no folder {path.parent}; make it first")
    if path.is_dir():
        raise OptionError(f"export: {path}: is a folder; give a file")

"""Names and atomic writing of what belongs to a text model on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import OptionError


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


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside path and renames: a reader sees the old file or the whole new one, whatever happens."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

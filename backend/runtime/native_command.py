"""The command `zeropoint-run`: replaces this process by the native runner beside the player."""

from __future__ import annotations

import os
import sys

from ..errors import RuntimeFailure
from .library import executorch_library, library_path


def main() -> None:
    """Runs the native runner with this process's arguments. Needs no torch."""
    try:
        executorch_library()
        runner = library_path().with_name("zeropoint-run")
    except RuntimeFailure as error:
        sys.exit(f"zeropoint-run: {error}")
    try:
        os.execv(runner, ["zeropoint-run", *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"zeropoint-run: {runner}: {error.strerror}")

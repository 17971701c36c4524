"""Makes ExecuTorch's runtime in this process know the backend."""

from __future__ import annotations

from importlib import metadata

from ..errors import RuntimeFailure
from . import library as native

BACKEND = "ZeropointBackend"
EXECUTORCH = "1.5.1"  # the pin of pyproject.toml, which a test compares


def register() -> None:
    """Loads the player; afterwards executorch.runtime runs .pte files with our delegates. Idempotent.

    Raises RuntimeFailure when another executorch is installed than the one the player was built for.
    """
    try:
        found = metadata.version("executorch")
    except metadata.PackageNotFoundError:
        raise RuntimeFailure(f"register: executorch is not installed; pip install executorch=={EXECUTORCH}") from None
    if found.partition("+")[0] != EXECUTORCH:
        raise RuntimeFailure(
            f"register: executorch {found}; this build needs {EXECUTORCH}; pip install executorch=={EXECUTORCH}"
        )
    native.open_library()

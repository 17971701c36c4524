"""Prints groups of requirements of pyproject.toml, one a line: `requirements.py build project llm test lint models`."""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10: the copy that pip carries, so that nothing need be installed first
    from pip._vendor import tomli as tomllib


def requirements(group: str) -> list[str]:
    """The requirement strings of one group. Raises SystemExit on an unknown group."""
    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    project = table["project"]
    groups = {
        "build": table["build-system"]["requires"],
        "project": project["dependencies"],
        "models": table["tool"]["zeropoint"]["models"],
        "test-models": table["tool"]["zeropoint"]["test-models"],
        **project["optional-dependencies"],
    }
    if group not in groups:
        raise SystemExit(f"requirements.py: no group {group!r}; offered {', '.join(groups)}")
    return list(groups[group])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print("\n".join(requirements(name)))

"""Versions of other packages that this one was tried with; executorch's is exact, and stands in runtime/register.py."""

from __future__ import annotations

import warnings
from importlib import metadata

from ..errors import VersionWarning

# Package -> from this version on, and before that one: what pyproject.toml asks for, which a test compares.
TRIED = {"torch": ((2, 13), (2, 15)), "torchao": ((0, 18), (0, 19)), "transformers": ((5, 4), (5, 25))}


def warn_of_untried(*packages: str) -> None:
    """A VersionWarning for each package that is installed in a version outside those."""
    for package in packages:
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        low, high = TRIED[package]
        if not low <= _numbers(found) < high:
            wanted = f"{package}>={_text(low)},<{_text(high)}"
            warnings.warn(
                f"zeropoint: {package} {found} was not tried and may export what no rule knows; pip install '{wanted}'",
                VersionWarning,
                stacklevel=3,
            )


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

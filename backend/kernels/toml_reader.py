"""Reads a manifest's TOML: every value is of the kind that is asked for, or refused with file and key."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..errors import ManifestError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")
_KIND_NAMES: dict[type, str] = {str: "text", int: "an integer", bool: "true or false", dict: "a table", list: "a list"}


def read_toml(path: Path) -> dict[str, object]:
    """The file's table. Raises ManifestError."""
    try:
        table: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestError(f"{path.name}: {error}") from error
    return table


class TomlReader:
    """Values of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, key: str, what: str) -> ManifestError:
        return ManifestError(f"{self.path.name}: {key}: {what}")

    def get(
        self, name: str, table: Mapping[str, object], kind: type[_T], key: str = "", *, default: _T | None = None
    ) -> _T:
        path = f"{key}.{name}" if key else name
        if name in table:
            return self.typed(path, table[name], kind)
        if default is None:
            raise self.error(path, f"missing; need {_KIND_NAMES[kind]}")
        return default

    def typed(self, key: str, value: object, kind: type[_T]) -> _T:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"{value!r}; need {_KIND_NAMES[kind]}")
        return value

    def known(self, key: str, table: Mapping[str, object], keys: tuple[str, ...]) -> None:
        for name in table:
            if name not in keys:
                raise self.error(key, f"unknown key {name!r}; offered {', '.join(keys)}")

    def named(self, key: str, name: str, pattern: re.Pattern[str]) -> str:
        if not pattern.fullmatch(name):
            raise self.error(key, f"{name!r} is not a name here; need {pattern.pattern}")
        return name

    def unique(self, key: str, names: list[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                raise self.error(key, f"{name!r} occurs twice")

    def choice(self, key: str, value: object, kind: Callable[[object], _T]) -> _T:
        try:
            return kind(value)
        except ValueError as error:
            offered = ", ".join(str(item.value) for item in kind if item.value != "none")  # type: ignore[attr-defined]
            raise self.error(key, f"{value!r}; offered {offered}") from error

    def choices(self, key: str, values: list[object], kind: Callable[[object], _T]) -> tuple[_T, ...]:
        if not values:
            raise self.error(key, "an empty list; name at least one")
        if "none" in values:
            raise self.error(key, "'none' is not declared; write optional = true")
        self.unique(key, [str(value) for value in values])
        return tuple(self.choice(key, value, kind) for value in values)

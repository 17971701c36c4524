"""Reads `shaders/<kernel>.toml` into Manifest. The language is section 3 of docs/design.md.

Goals: whatever a manifest says is either understood or refused, with file and key. Non-goals: a default for a
misspelled key; floating-point expressions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..dtypes import DType, Storage
from ..errors import ManifestError
from .expr import Expr, Scope, compile_expr
from .manifest import MAX_PUSH_BYTES, MAX_SLOTS, VIEWS, Algorithm, AttrDecl, Io, Manifest, Push, Slot, Spec, ValueKind
from .where import Where, compile_where

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MACRO = re.compile(r"[A-Z][A-Z0-9_]*")
_SLOT_MACRO = re.compile(r"(.*)_(BINDING|F32|F16|I32|I8|U8|I4|NONE|BUFFER|IMAGE|TYPE|FORMAT|IMAGE_TYPE)")
_NO_IMAGE = (DType.U8, DType.I4)


def load_manifests(shaders: Path) -> tuple[Manifest, ...]:
    """Reads every `shaders/*.toml`, sorted by name. Raises ManifestError; an empty folder is one."""
    paths = sorted(shaders.glob("*.toml"))
    if not paths:
        raise ManifestError(f"{shaders}: no manifests (*.toml) found; name the folder of the shaders")
    return tuple(load_manifest(path) for path in paths)


def load_manifest(path: Path) -> Manifest:
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestError(f"{path.name}: {error}") from error
    return _Parser(path).manifest(table)


_T = TypeVar("_T")
_KIND_NAMES: dict[type, str] = {str: "text", int: "an integer", bool: "true or false", dict: "a table", list: "a list"}


class _Parser:
    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, key: str, what: str) -> ManifestError:
        return ManifestError(f"{self.path.name}: {key}: {what}")

    def manifest(self, table: Mapping[str, object]) -> Manifest:
        self.known("manifest", table, ("doc", "slots", "attrs", "variants", "constants", "algorithm"))
        name = self.named("kernel name", self.path.stem, _NAME)
        slots = tuple(self.slot(f"slots.{slot}", slot, value) for slot, value in self.get("slots", table, dict).items())
        if not 1 <= len(slots) <= MAX_SLOTS:
            raise self.error("slots", f"{len(slots)} slots; need 1 to {MAX_SLOTS}")
        attrs = tuple(
            AttrDecl(self.named(f"attrs.{attr}", attr, _NAME), self.choice(f"attrs.{attr}", kind, ValueKind))
            for attr, kind in self.get("attrs", table, dict, default={}).items()
        )
        constants = self.integers("constants", self.get("constants", table, dict, default={}), slots)
        algorithms = self.get("algorithm", table, list)
        if not algorithms:
            raise self.error("algorithm", "none; need at least one [[algorithm]]")
        parsed = tuple(self.algorithm(i, value, slots, attrs, dict(constants)) for i, value in enumerate(algorithms))
        self.unique("algorithm", [algorithm.name for algorithm in parsed])
        return Manifest(
            name=name,
            path=self.path,
            doc=self.get("doc", table, str),
            slots=slots,
            attrs=attrs,
            where=self.variants(self.get("variants", table, dict, default={}), slots),
            constants=constants,
            algorithms=parsed,
        )

    def slot(self, key: str, name: str, value: object) -> Slot:
        table = self.typed(key, value, dict)
        self.known(key, table, ("io", "dtype", "storage", "optional", "view"))
        dtypes = self.choices(f"{key}.dtype", self.get("dtype", table, list, key), DType)
        storages = self.choices(f"{key}.storage", self.get("storage", table, list, key), Storage)
        view, views = self.views(f"{key}.view", table.get("view", ""), dtypes)
        if (view or views) and storages != (Storage.BUFFER,):
            raise self.error(f"{key}.view", "only a buffer has a view; an image's format says what it is")
        if DType.I4 in dtypes and not view and DType.I4 not in dict(views):
            raise self.error(f"{key}.dtype", "i4 has no GLSL type; give the slot a view, for example u32x4")
        if Storage.IMAGE in storages and (bad := [dtype.value for dtype in dtypes if dtype in _NO_IMAGE]):
            raise self.error(f"{key}.dtype", f"{', '.join(bad)} in an image; images hold f32, f16, i32, i8")
        return Slot(
            name=self.named(key, name, _NAME),
            io=self.choice(f"{key}.io", self.get("io", table, str, key), Io),
            dtypes=dtypes,
            storages=storages,
            optional=self.get("optional", table, bool, key, default=False),
            view=view or None,
            views=views,
        )

    def views(self, key: str, value: object, dtypes: tuple[DType, ...]) -> tuple[str, tuple[tuple[DType, str], ...]]:
        """A view of all dtypes, or a table of dtype -> view."""
        if not isinstance(value, dict):
            view = self.typed(key, value, str)
            if view:
                self.check_view(key, view)
            return view, ()
        self.known(key, value, tuple(dtype.value for dtype in dtypes))
        views = tuple((DType(name), self.typed(f"{key}.{name}", view, str)) for name, view in value.items())
        for dtype, view in views:
            self.check_view(f"{key}.{dtype.value}", view)
        return "", views

    def check_view(self, key: str, view: str) -> None:
        if view not in VIEWS:
            raise self.error(key, f"{view!r}; offered {', '.join(VIEWS)}")

    def variants(self, table: dict[str, object], slots: tuple[Slot, ...]) -> tuple[Where, ...]:
        self.known("variants", table, ("where",))
        return self.where("variants", table, slots)

    def where(self, key: str, table: Mapping[str, object], slots: tuple[Slot, ...]) -> tuple[Where, ...]:
        names = tuple(slot.name for slot in slots)
        return tuple(
            compile_where(self.typed(f"{key}.where[{i}]", text, str), names, f"{self.path.name}: {key}.where[{i}]")
            for i, text in enumerate(self.get("where", table, list, key, default=[]))
        )

    def integers(self, key: str, table: Mapping[str, object], slots: tuple[Slot, ...]) -> tuple[tuple[str, int], ...]:
        taken = {slot.name.upper() for slot in slots}
        for name in table:
            self.named(f"{key}.{name}", name, _MACRO)
            if (match := _SLOT_MACRO.fullmatch(name)) and match[1] in taken:
                raise self.error(f"{key}.{name}", "is a macro that the build defines for a slot; choose another name")
        return tuple((name, self.typed(f"{key}.{name}", value, int)) for name, value in table.items())

    def algorithm(
        self,
        index: int,
        value: object,
        slots: tuple[Slot, ...],
        attrs: tuple[AttrDecl, ...],
        constants: dict[str, int],
    ) -> Algorithm:
        key = f"algorithm[{index}]"
        table = self.typed(key, value, dict)
        self.known(key, table, ("name", "source", "where", "when", "unroll", "defines", "grid", "spec", "push"))
        name = self.named(f"{key}.name", self.get("name", table, str, key), _NAME)
        key = f"algorithm.{name}"
        defines = self.integers(f"{key}.defines", self.get("defines", table, dict, key, default={}), slots)
        for define, _ in defines:
            if define in constants:
                raise self.error(f"{key}.defines.{define}", "is also in [constants]; give it one value")
        scope = Scope(
            where="",
            slots=tuple(slot.name for slot in slots),
            integer_attrs=tuple(attr.name for attr in attrs if attr.kind is ValueKind.INT),
            real_attrs=tuple(attr.name for attr in attrs if attr.kind is ValueKind.FLOAT),
            constants=constants | dict(defines),
        )
        grid = self.get("grid", table, list, key)
        if len(grid) != 3:
            raise self.error(f"{key}.grid", f"{len(grid)} expressions; need 3")
        x, y, z = (self.expr(f"{key}.grid[{i}]", text, scope) for i, text in enumerate(grid))
        return Algorithm(
            name=name,
            source=self.source(f"{key}.source", self.get("source", table, str, key, default=f"{self.path.stem}.comp")),
            when=self.expr(f"{key}.when", table["when"], scope) if "when" in table else None,
            defines=defines,
            grid=(x, y, z),
            specs=tuple(
                Spec(self.named(f"{key}.spec.{spec}", spec, _MACRO), self.expr(f"{key}.spec.{spec}", text, scope))
                for spec, text in self.get("spec", table, dict, key, default={}).items()
            ),
            pushes=self.pushes(f"{key}.push", self.get("push", table, dict, key, default={}), scope),
            unroll=self.get("unroll", table, bool, key, default=False),
            where=self.where(key, table, slots),
        )

    def pushes(self, key: str, table: Mapping[str, object], scope: Scope) -> tuple[Push, ...]:
        if 4 * len(table) > MAX_PUSH_BYTES:
            raise self.error(key, f"{4 * len(table)} bytes of push constants; at most {MAX_PUSH_BYTES}")
        return tuple(self.push(f"{key}.{name}", name, value, scope) for name, value in table.items())

    def push(self, key: str, name: str, value: object, scope: Scope) -> Push:
        text = self.typed(key, value, str)
        real = re.fullmatch(r"\s*attr\(\s*(\w+)\s*\)\s*", text)
        self.named(key, name, _NAME)
        if real and real[1] in scope.real_attrs:
            return Push(name=name, value=None, attr=real[1])
        return Push(name=name, value=self.expr(key, text, scope))

    def source(self, key: str, name: str) -> Path:
        path = self.path.parent / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise self.error(key, f"{name!r} leaves the folder of the shaders")
        if not path.is_file():
            raise self.error(key, f"{name!r} does not exist in {self.path.parent}")
        return path

    def expr(self, key: str, value: object, scope: Scope) -> Expr:
        where = f"{self.path.name}: {key}"
        located = Scope(where, scope.slots, scope.integer_attrs, scope.real_attrs, scope.constants)
        return compile_expr(self.typed(key, value, str), located)

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

"""Reads `shaders/<kernel>.toml` into Manifest. The language is section 3 of docs/design.md.

Goals: whatever a manifest says is either understood or refused, with file and key. Non-goals: a default for a
misspelled key; floating-point expressions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import ManifestError
from .dtypes import DType, Storage
from .expr import Expr, OpCode, Scope, compile_expr
from .manifest import (
    GRID_FOLD,
    MAX_PUSH_BYTES,
    MAX_SLOTS,
    MOST_ITERATIONS,
    TURN_PUSHES,
    VIEWS,
    Algorithm,
    AttrDecl,
    Io,
    Manifest,
    Operators,
    Push,
    Slot,
    Spec,
    ValueKind,
)
from .toml_reader import TomlReader, read_toml
from .where import Where, compile_where

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TYPE = re.compile(r"[A-Z][A-Za-z0-9]*")
_MACRO = re.compile(r"[A-Z][A-Z0-9_]*")
_SLOT_MACRO = re.compile(r"(.*)_(BINDING|F32|F16|I32|I8|U8|I4|NONE|BUFFER|IMAGE|TYPE|FORMAT|IMAGE_TYPE)")
_KINDS = ("int", "int[<count>]", "float")
_ARRAY = re.compile(r"int\[([1-9])\]")
_ATTR = re.compile(r"\s*attr\(\s*(\w+)\s*\)\s*")
# Of an algorithm, which the manifest may give for all.
_DEFAULTS = ("source", "grid", "spec", "push", "iterations", "ahead")
_NO_IMAGE = (DType.U8, DType.I4)


def load_manifests(shaders: Path) -> tuple[Manifest, ...]:
    """Reads every `shaders/*.toml`, sorted by name. Raises ManifestError; an empty folder is one."""
    paths = sorted(shaders.glob("*.toml"))
    if not paths:
        raise ManifestError(f"{shaders}: no manifests (*.toml) found; name the folder of the shaders")
    manifests = tuple(load_manifest(path) for path in paths)
    names = [manifest.name for manifest in manifests]
    for manifest in manifests:
        for alias in manifest.aliases:
            if alias in names:
                raise ManifestError(f"{manifest.path.name}: aliases: {alias!r} is another kernel's")
            names.append(alias)
    return manifests


def load_manifest(path: Path) -> Manifest:
    return _Parser(path).manifest(read_toml(path))


def _scope(slots: tuple[Slot, ...], attrs: tuple[AttrDecl, ...], constants: Mapping[str, int]) -> Scope:
    return Scope(
        where="",
        slots=tuple(slot.name for slot in slots),
        integer_attrs=tuple(attr.name for attr in attrs if attr.kind is ValueKind.INT),
        real_attrs=tuple(attr.name for attr in attrs if attr.kind is ValueKind.FLOAT),
        constants=constants,
    )


class _Parser(TomlReader):
    def manifest(self, table: Mapping[str, object]) -> Manifest:
        self.known(
            "manifest",
            table,
            ("doc", "aliases", "where", *_DEFAULTS, "slots", "attrs", "operators", "constants", "algorithm"),
        )
        name = self.named("kernel name", self.path.stem, _NAME)
        slots = tuple(self.slot(f"slots.{slot}", slot, value) for slot, value in self.get("slots", table, dict).items())
        if not 1 <= len(slots) <= MAX_SLOTS:
            raise self.error("slots", f"{len(slots)} slots; need 1 to {MAX_SLOTS}")
        operators = self.operators(self.get("operators", table, dict, default={}))
        attrs = self.attrs(self.get("attrs", table, dict, default={}), operators)
        constants = self.integers("constants", self.get("constants", table, dict, default={}), slots)
        algorithms = self.get("algorithm", table, list)
        if not algorithms:
            raise self.error("algorithm", "none; need at least one [[algorithm]]")
        defaults = self.defaults(table, algorithms)
        arrays = self.arrays(self.get("attrs", table, dict, default={}))
        scope = _scope(slots, attrs, {"GRID_FOLD": GRID_FOLD, **dict(constants)})
        parsed = tuple(
            self.algorithm(i, defaults | self.typed(f"algorithm[{i}]", value, dict), slots, scope, arrays)
            for i, value in enumerate(algorithms)
        )
        self.unique("algorithm", [algorithm.name for algorithm in parsed])
        return Manifest(
            name=name,
            path=self.path,
            doc=self.get("doc", table, str),
            slots=slots,
            attrs=attrs,
            operators=operators,
            where=self.where("", table, slots),
            constants=constants,
            algorithms=parsed,
            aliases=tuple(
                self.named("aliases", self.typed("aliases", alias, str), _NAME)
                for alias in self.get("aliases", table, list, default=[])
            ),
        )

    def defaults(self, table: Mapping[str, object], algorithms: list[object]) -> dict[str, object]:
        """What the manifest says for algorithms that do not say it themselves."""
        found = {key: table[key] for key in _DEFAULTS if key in table}
        for key in found:
            if all(isinstance(item, dict) and key in item for item in algorithms):
                raise self.error(key, "every algorithm has its own; drop it")
        return found

    def attrs(self, table: Mapping[str, object], operators: tuple[Operators, ...]) -> tuple[AttrDecl, ...]:
        names = [item.name for item in operators]
        arrays = self.arrays(table)
        found = []
        for name, kind in table.items():
            key = f"attrs.{name}"
            self.named(key, name, _NAME)
            chosen = kind if isinstance(kind, str) and kind in names else ""
            if name in arrays:
                found += [AttrDecl(part, ValueKind.INT) for part in arrays[name]]
            elif chosen or kind in ("int", "float"):
                found.append(AttrDecl(name, ValueKind.INT if chosen else ValueKind(kind), chosen))
            else:
                raise self.error(key, f"{kind!r}; offered {', '.join((*_KINDS, *names))}")
        for name in names:
            if name not in [attr.operators for attr in found]:
                raise self.error(f"operators.{name}", "no attribute chooses from it")
        self.unique("attrs", [attr.name for attr in found])
        return tuple(found)

    def arrays(self, table: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
        """Of each attribute that is several, their names."""
        counts = {name: _ARRAY.fullmatch(kind) for name, kind in table.items() if isinstance(kind, str)}
        return {name: tuple(f"{name}{i}" for i in range(int(count[1]))) for name, count in counts.items() if count}

    def operators(self, table: Mapping[str, object]) -> tuple[Operators, ...]:
        """Lists of names; a text is the kernel whose manifest has the list of that name."""
        found = []
        for name, value in table.items():
            key = f"operators.{self.named('operators', name, _TYPE)}"
            if isinstance(value, str):
                other = _Parser(self.path.with_name(f"{value}.toml"))
                value = other.get(name, other.get("operators", read_toml(other.path), dict), list, "operators")
            members = [self.named(key, self.typed(key, member, str), _MACRO) for member in self.typed(key, value, list)]
            self.unique(key, members)
            found.append(Operators(name, tuple(members)))
        return tuple(found)

    def slot(self, key: str, name: str, value: object) -> Slot:
        table = self.typed(key, value, dict)
        self.known(key, table, ("io", "dtype", "storage", "optional", "view", "atomic"))
        dtypes = self.choices(f"{key}.dtype", self.get("dtype", table, list, key), DType)
        storages = self.choices(f"{key}.storage", self.get("storage", table, list, key), Storage)
        view, views = self.views(f"{key}.view", table.get("view", ""), dtypes)
        if (view and storages != (Storage.BUFFER,)) or (views and Storage.BUFFER not in storages):
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
            atomic=self.get("atomic", table, bool, key, default=False),
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

    def where(self, key: str, table: Mapping[str, object], slots: tuple[Slot, ...]) -> tuple[Where, ...]:
        names = tuple(slot.name for slot in slots)
        path = f"{key}.where" if key else "where"
        return tuple(
            compile_where(self.typed(f"{path}[{i}]", text, str), names, f"{self.path.name}: {path}[{i}]")
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
        table: Mapping[str, object],
        slots: tuple[Slot, ...],
        scope: Scope,
        arrays: Mapping[str, tuple[str, ...]],
    ) -> Algorithm:
        """One of them, the defaults of all put in. arrays: the attributes that are several."""
        key = f"algorithm[{index}]"
        self.known(
            key,
            table,
            ("name", "source", "where", "when", "iterations", "unroll", "defines", "grid", "spec", "push", "ahead"),
        )
        name = self.named(f"{key}.name", self.get("name", table, str, key), _NAME)
        key = f"algorithm.{name}"
        defines = self.integers(f"{key}.defines", self.get("defines", table, dict, key, default={}), slots)
        for define, _ in defines:
            if define in scope.constants:
                raise self.error(f"{key}.defines.{define}", "is also in [constants]; give it one value")
        scope = replace(scope, constants={**scope.constants, **dict(defines)})
        iterations = self.expr(f"{key}.iterations", table["iterations"], scope) if "iterations" in table else None
        ahead = self.ahead(f"{key}.ahead", table, slots)
        pushes = self.get("push", table, dict, key, default={})
        if ahead is not None:
            if taken := [push for push in TURN_PUSHES if push in pushes]:
                raise self.error(f"{key}.push.{taken[0]}", "is the turns', which `ahead` adds; choose another name")
            pushes = pushes | dict.fromkeys(TURN_PUSHES, "0")
        return Algorithm(
            name=name,
            source=self.source(f"{key}.source", self.get("source", table, str, key, default=f"{self.path.stem}.comp")),
            when=self.guard(f"{key}.when", table.get("when"), iterations, scope),
            defines=defines,
            grid=self.grid(f"{key}.grid", table.get("grid"), scope),
            specs=tuple(
                Spec(self.named(f"{key}.spec.{spec}", spec, _MACRO), self.expr(f"{key}.spec.{spec}", text, scope))
                for spec, text in self.get("spec", table, dict, key, default={}).items()
            ),
            pushes=self.pushes(f"{key}.push", pushes, scope, arrays),
            unroll=self.get("unroll", table, bool, key, default=False),
            where=self.where(key, table, slots),
            iterations=iterations,
            ahead=ahead,
        )

    def ahead(self, key: str, table: Mapping[str, object], slots: tuple[Slot, ...]) -> tuple[str, ...] | None:
        """The slots that are read before the turn; none says that the algorithm takes no turns."""
        if "ahead" not in table:
            return None
        names = [slot.name for slot in slots if slot.io is not Io.OUT]
        found = [self.typed(key, name, str) for name in self.typed(key, table["ahead"], list)]
        for name in found:
            if name not in names:
                raise self.error(key, f"{name!r}; slots that are read: {', '.join(names)}")
        self.unique(key, found)
        return tuple(found)

    def guard(self, key: str, when: object, iterations: Expr | None, scope: Scope) -> Expr | None:
        """`when`, and that no loop is longer than the driver runs it. The text is what a refusal shows."""
        asked = None if when is None else self.expr(key, when, scope)
        if iterations is None:
            return asked
        if [op.code for op in iterations.ops] == [OpCode.PUSH]:
            if iterations.ops[0].value > MOST_ITERATIONS:
                raise self.error(key, f"{iterations.text} iterations; at most {MOST_ITERATIONS}")
            return asked
        limit = f"({iterations.text}) <= device.max_loop_iterations"
        found = self.expr(key, f"({asked.text}) and {limit}" if asked else limit, scope)
        return replace(found, text=f"{found.text} (llvmpipe before Mesa 25 ends longer loops early)")

    def grid(self, key: str, value: object, scope: Scope) -> tuple[Expr, Expr, Expr]:
        """Three expressions; or one, of which what is more than GRID_FOLD goes into the second dimension."""
        if isinstance(value, str):
            self.expr(key, value, scope)
            value = [f"min({value}, GRID_FOLD)", f"ceil_div({value}, GRID_FOLD)", "1"]
        texts = self.typed(key, value, list)
        if len(texts) != 3:
            raise self.error(key, f"{len(texts)} expressions; need 3, or one text")
        x, y, z = (self.expr(f"{key}[{i}]", text, scope) for i, text in enumerate(texts))
        return x, y, z

    def pushes(
        self, key: str, table: Mapping[str, object], scope: Scope, arrays: Mapping[str, tuple[str, ...]]
    ) -> tuple[Push, ...]:
        """Push constants. `stride = "attr(stride)"` of an attribute that is several is as many, under their names."""
        found = []
        for name, value in table.items():
            array = _ATTR.fullmatch(value) if isinstance(value, str) else None
            if array and array[1] in arrays:
                parts = arrays[array[1]]
                found += [self.push(key, f"{name}{i}", f"attr({part})", scope) for i, part in enumerate(parts)]
            else:
                found.append(self.push(key, name, value, scope))
        if 4 * len(found) > MAX_PUSH_BYTES:
            raise self.error(key, f"{4 * len(found)} bytes of push constants; at most {MAX_PUSH_BYTES}")
        return tuple(found)

    def push(self, table: str, name: str, value: object, scope: Scope) -> Push:
        key = f"{table}.{name}"
        text = self.typed(key, value, str)
        real = _ATTR.fullmatch(text)
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
        return compile_expr(self.typed(key, value, str), replace(scope, where=f"{self.path.name}: {key}"))

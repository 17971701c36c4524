"""Writes `_generated/signatures.py`: what export knows of the kernels where there are no manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import ManifestError
from .manifest import AttrDecl, Manifest, Slot
from .manifest_reader import load_manifests

TARGET = Path(__file__).parent / "_generated"
_HEAD = '''"""Made from shaders/*.toml by `python -m backend.kernels signatures`. Changes here are lost."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from ..dtypes import DType, Storage
from ..manifest import AttrDecl, Io, Slot, ValueKind
from ..signature import Signature
'''


def write_signatures(shaders: Path, target: Path = TARGET) -> Path:
    """Writes the module for the manifests of a folder and returns its path. Raises ManifestError."""
    manifests = load_manifests(shaders)
    target.mkdir(parents=True, exist_ok=True)
    (target / "__init__.py").write_text("")
    path = target / "signatures.py"
    path.write_text(_source(manifests))
    return path


def _source(manifests: Sequence[Manifest]) -> str:
    enums = "".join(f"\n\nclass {name}(IntEnum):\n{_members(members)}" for name, members in _operators(manifests))
    kernels = "".join(f"    {manifest.name!r}: {_signature(manifest)},\n" for manifest in manifests)
    names = {alias: manifest.name for manifest in manifests for alias in manifest.aliases}
    return (
        f"{_HEAD}{enums}\n\nSIGNATURES: Mapping[str, Signature] = {{\n{kernels}}}\n"
        f"ALIASES: Mapping[str, str] = {names!r}  # of older Programs, and the kernel that each stands for now\n"
    )


def _operators(manifests: Iterable[Manifest]) -> list[tuple[str, tuple[str, ...]]]:
    """Every list of operators once. Raises ManifestError where two manifests have different ones of a name."""
    found: dict[str, tuple[str, ...]] = {}
    for manifest in manifests:
        for item in manifest.operators:
            if found.setdefault(item.name, item.members) != item.members:
                raise ManifestError(f"{manifest.path.name}: operators.{item.name}: another manifest has other ones")
    return sorted(found.items())


def _members(members: Sequence[str]) -> str:
    return "".join(f"    {member} = {number}\n" for number, member in enumerate(members))


def _signature(manifest: Manifest) -> str:
    members = {item.name: item.members for item in manifest.operators}
    where = tuple(condition.text for condition in manifest.where)
    slots = _tuple(_slot(slot) for slot in manifest.slots)
    attrs = _tuple(_attr(attr) for attr in manifest.attrs)
    rest = f"{members!r}, {where!r}, {dict(manifest.constants)!r}, {manifest.aliases!r}"
    return f"Signature({manifest.name!r}, {slots}, {attrs}, {rest})"


def _slot(slot: Slot) -> str:
    dtypes, storages = _tuple(map(str, slot.dtypes)), _tuple(map(str, slot.storages))
    return f"Slot({slot.name!r}, {slot.io}, {dtypes}, {storages}, {slot.optional})"


def _attr(attr: AttrDecl) -> str:
    return f"AttrDecl({attr.name!r}, {attr.kind}, {attr.operators!r})"


def _tuple(items: Iterable[str]) -> str:
    return "(" + "".join(f"{item}, " for item in items).strip() + ")"

"""What export knows of a kernel: its manifest's slots, attributes, operators and constants.

`python -m backend.kernels signatures` writes those of all manifests into `_generated/signatures.py` at build. Neither
imports torch or reads a manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import ProgramError
from .dtypes import DType, Storage
from .manifest import AttrDecl, Io, Manifest, Slot, ValueKind
from .where import Where, compile_where

Binding = tuple[DType, Storage]


@dataclass(frozen=True)
class Signature:
    """One kernel. where: conditions on the dtypes and storages of its slots; members: of each list of operators.

    aliases: names that older Programs call it by.
    """

    kernel: str
    slots: tuple[Slot, ...]
    attrs: tuple[AttrDecl, ...]
    members: Mapping[str, tuple[str, ...]]
    where: tuple[str, ...]
    constants: Mapping[str, int]
    aliases: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> Signature:
        """What a manifest says."""
        return cls(
            kernel=manifest.name,
            slots=manifest.slots,
            attrs=manifest.attrs,
            members={item.name: item.members for item in manifest.operators},
            where=tuple(condition.text for condition in manifest.where),
            constants=dict(manifest.constants),
            aliases=manifest.aliases,
        )

    @cached_property
    def writes(self) -> frozenset[str]:
        """The slots that a call writes."""
        return frozenset(slot.name for slot in self.slots if slot.io is not Io.IN)

    def slot(self, name: str) -> Slot:
        """A slot by name. Raises ProgramError when there is none."""
        for slot in self.slots:
            if slot.name == name:
                return slot
        raise self._error(f"slot {name}: no such slot; offered {_listed(slot.name for slot in self.slots)}")

    def attr_names(self) -> tuple[str, ...]:
        """The attributes of a call, in the manifest's order."""
        return tuple(attr.name for attr in self.attrs)

    def check(self, bound: Mapping[str, Binding], attrs: Mapping[str, object]) -> None:
        """Refuses a call that no variant can run. bound: dtype and storage by slot; attrs: values by name.

        Raises ProgramError with the kernel, the slot or attribute, and what is offered.
        """
        self._check_slots(bound)
        for condition in self._conditions:
            key = {slot.name: bound.get(slot.name, (DType.NONE, Storage.NONE)) for slot in self.slots}
            if not condition.accepts(key):
                found = ", ".join(f"{name} {_spelt(item)}" for name, item in bound.items())
                raise self._error(f"no variant for {found}; need {condition.text}")
        self._check_attrs(attrs)

    @cached_property
    def _conditions(self) -> tuple[Where, ...]:
        names = tuple(slot.name for slot in self.slots)
        return tuple(compile_where(text, names, self.kernel) for text in self.where)

    def _check_slots(self, bound: Mapping[str, Binding]) -> None:
        for name in bound:
            self.slot(name)
        for slot in self.slots:
            if slot.name not in bound and not slot.optional:
                raise self._error(f"slot {slot.name}: not bound; bound are {_listed(bound)}")
            dtype, storage = bound.get(slot.name, (slot.dtypes[0], slot.storages[0]))
            if dtype not in slot.dtypes or storage not in slot.storages:
                offered = _listed(item.value for item in slot.dtypes), " or ".join(item.value for item in slot.storages)
                raise self._error(f"slot {slot.name}: {_spelt((dtype, storage))}; offered {offered[0]} in {offered[1]}")

    def _check_attrs(self, attrs: Mapping[str, object]) -> None:
        names = self.attr_names()
        for name in attrs:
            if name not in names:
                raise self._error(f"attribute {name}: no such attribute; offered {_listed(names)}")
        for attr in self.attrs:
            if attr.name not in attrs:
                raise self._error(f"attribute {attr.name}: missing; given are {_listed(attrs)}")
            value = attrs[attr.name]
            if isinstance(value, float) != (attr.kind is ValueKind.FLOAT):
                raise self._error(f"attribute {attr.name}: {value!r}; need {attr.kind.value}")
            members = self.members.get(attr.operators, ())
            if members and value not in range(len(members)):
                raise self._error(f"attribute {attr.name}: {value!r}; offered 0 to {len(members) - 1}")

    def _error(self, what: str) -> ProgramError:
        return ProgramError(f"{self.kernel}: {what}")


def _spelt(binding: Binding) -> str:
    return f"{binding[0].value} in {binding[1].value}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"

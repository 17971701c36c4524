"""Variant keys: the dtype and storage of every slot, for one algorithm of one kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from ..errors import ManifestError
from .dtypes import DType, Storage
from .manifest import Algorithm, Manifest, Slot
from .where import Choice, Where


@dataclass(frozen=True, slots=True)
class SlotKey:
    slot: str
    dtype: DType
    storage: Storage

    def __str__(self) -> str:
        bound = self.dtype is not DType.NONE
        return f"{self.slot}={self.dtype.value}:{self.storage.value}" if bound else f"{self.slot}=none"


@dataclass(frozen=True, slots=True)
class VariantKey:
    """`kernel/algorithm[x=f16:buffer,zp=i8:image,bias=none]`; `slots` is in slot order."""

    kernel: str
    algorithm: str
    slots: tuple[SlotKey, ...]

    def __str__(self) -> str:
        return f"{self.kernel}/{self.algorithm}[{','.join(str(slot) for slot in self.slots)}]"


def slot_choices(manifest: Manifest) -> tuple[tuple[SlotKey, ...], ...]:
    """Every combination of dtypes and storages that `where` accepts, in slot order, the last slot fastest.

    Raises ManifestError when none is left, or when a dtype or storage a slot declares occurs in no combination.
    """
    rows = tuple(_combinations(manifest))
    if not rows:
        conditions = "; ".join(where.text for where in manifest.where)
        raise ManifestError(f"{manifest.path.name}: where: no combination is left ({conditions})")
    for i, slot in enumerate(manifest.slots):
        for choice in _choices(slot):
            if not any((row[i].dtype, row[i].storage) == choice for row in rows):
                key = SlotKey(slot.name, *choice)
                raise ManifestError(
                    f"{manifest.path.name}: slots.{slot.name}: {key} is in no variant; widen where or drop it"
                )
    return rows


def variant_keys(
    manifest: Manifest, algorithm: Algorithm, choices: tuple[tuple[SlotKey, ...], ...] | None = None
) -> tuple[VariantKey, ...]:
    """The kernel's combinations that the algorithm's own `where` accepts. Raises ManifestError when none is left.

    choices: slot_choices(manifest), where they are at hand: a kernel of many slots has thousands to look through.
    """
    choices = slot_choices(manifest) if choices is None else choices
    rows = tuple(row for row in choices if _accepted(algorithm.where, {s.slot: (s.dtype, s.storage) for s in row}))
    if not rows:
        conditions = "; ".join(where.text for where in algorithm.where)
        raise ManifestError(
            f"{manifest.path.name}: algorithm.{algorithm.name}.where: no variant is left ({conditions})"
        )
    return tuple(VariantKey(manifest.name, algorithm.name, row) for row in rows)


def _choices(slot: Slot) -> list[Choice]:
    choices = list(product(slot.dtypes, slot.storages))
    return [*choices, (DType.NONE, Storage.NONE)] if slot.optional else choices


def _combinations(manifest: Manifest) -> Iterator[tuple[SlotKey, ...]]:
    names = [slot.name for slot in manifest.slots]
    for choices in product(*(_choices(slot) for slot in manifest.slots)):
        if _accepted(manifest.where, dict(zip(names, choices, strict=True))):
            yield tuple(SlotKey(name, dtype, storage) for name, (dtype, storage) in zip(names, choices, strict=True))


def _accepted(conditions: tuple[Where, ...], key: Mapping[str, Choice]) -> bool:
    return all(where.accepts(key) for where in conditions)

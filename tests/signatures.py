"""Signatures of kernels that are not this package's, and ones that refuse less: for Programs that must be wrong."""

from __future__ import annotations

from dataclasses import replace

from zeropoint.kernels.dtypes import DType, Storage
from zeropoint.kernels.manifest import AttrDecl, Io, Slot, ValueKind
from zeropoint.kernels.signature import Signature

_DTYPES = tuple(item for item in DType if item is not DType.NONE)
_STORAGES = (Storage.BUFFER, Storage.IMAGE)


def signature(kernel: str, reads: str, writes: str, **attrs: str) -> dict[str, Signature]:
    """A kernel by its slots, in two texts, and its attributes' kinds. Any slot that is read may be left out."""
    slots = [Slot(name, Io.IN, _DTYPES, _STORAGES, True) for name in reads.split()]
    slots += [Slot(name, Io.OUT, _DTYPES, _STORAGES) for name in writes.split()]
    kinds = tuple(AttrDecl(name, ValueKind(kind)) for name, kind in attrs.items())
    return {kernel: Signature(kernel, tuple(slots), kinds, {}, (), {})}


def of_any_dtype(known: Signature) -> dict[str, Signature]:
    """The kernel with slots of any dtype and storage."""
    slots = tuple(replace(slot, dtypes=_DTYPES, storages=_STORAGES) for slot in known.slots)
    return {known.kernel: replace(known, slots=slots, where=())}

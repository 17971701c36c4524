"""The arena planner. Pure integers: it knows no tensor, no dtype and no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ProgramError


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Bytes needed during the half-open interval [first, last)."""

    first: int
    last: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Arena:
    """One byte offset per lifetime, in the order given, and the size that holds them all."""

    offsets: tuple[int, ...]
    size_bytes: int


def plan_arena(lifetimes: Sequence[Lifetime], *, align: int) -> Arena:
    """Packs lifetimes into one arena: largest first, lowest offset that fits.

    Returns byte offsets, each a multiple of align; the same input gives the same plan.
    Raises ProgramError on an empty lifetime. Source: Pisarchyk & Lee 2020, greedy by size.
    """
    for index, item in enumerate(lifetimes):
        if item.first >= item.last or item.size_bytes < 0:
            raise ProgramError(
                f"plan_arena: lifetime[{index}]: [{item.first}, {item.last}) of {item.size_bytes} bytes; "
                "need first < last and size_bytes >= 0"
            )
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].size_bytes, i)):
        item = lifetimes[index]
        offset = 0
        for other in placed:  # in ascending offset order
            if not overlap_in_time(item, lifetimes[other]):
                continue
            if offset + item.size_bytes <= offsets[other]:
                break
            offset = max(offset, _align(offsets[other] + lifetimes[other].size_bytes, align))
        offsets[index] = offset
        placed.append(index)
        placed.sort(key=lambda i: (offsets[i], i))
    end = max((offsets[i] + item.size_bytes for i, item in enumerate(lifetimes)), default=0)
    return Arena(tuple(offsets), _align(end, align))


def overlap_in_time(a: Lifetime, b: Lifetime) -> bool:
    """Whether both need their bytes at some moment."""
    return a.first < b.last and b.first < a.last


def _align(value: int, align: int) -> int:
    return -(-value // align) * align

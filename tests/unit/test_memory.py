"""plan_arena: no overlap, alignment, a known optimum, and the same plan every time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropoint import ProgramError
from zeropoint.program.arena import Lifetime, overlap_in_time, plan_arena

LIFETIMES = st.builds(
    lambda first, length, size: Lifetime(first, first + length, size),
    st.integers(0, 20),
    st.integers(1, 10),
    st.integers(0, 5000),
)


@given(st.lists(LIFETIMES, max_size=25))
def test_no_two_live_lifetimes_share_a_byte(lifetimes: list[Lifetime]) -> None:
    arena = plan_arena(lifetimes, align=256)
    for i, a in enumerate(lifetimes):
        assert arena.offsets[i] % 256 == 0
        assert arena.offsets[i] + a.size_bytes <= arena.size_bytes
        for j, b in enumerate(lifetimes[:i]):
            if overlap_in_time(a, b):
                assert (
                    arena.offsets[i] + a.size_bytes <= arena.offsets[j]
                    or arena.offsets[j] + b.size_bytes <= arena.offsets[i]
                )


def test_a_chain_takes_two_buffers() -> None:
    chain = [Lifetime(i, i + 2, 1000) for i in range(6)]
    assert plan_arena(chain, align=256).size_bytes == 2048


def test_a_gap_between_two_is_used() -> None:
    plan = plan_arena([Lifetime(0, 9, 1024), Lifetime(0, 3, 512), Lifetime(0, 9, 256), Lifetime(3, 9, 512)], align=256)
    assert plan.offsets == (0, 1024, 1536, 1024)
    assert plan.size_bytes == 1792


def test_nothing_takes_nothing() -> None:
    assert plan_arena([], align=256).size_bytes == 0


def test_an_empty_lifetime_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"^plan_arena: lifetime\[1\]: \[3, 3\) of 8 bytes; need first < last"):
        plan_arena([Lifetime(0, 1, 8), Lifetime(3, 3, 8)], align=256)

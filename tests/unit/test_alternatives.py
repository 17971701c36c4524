"""Alternatives of a Program: its invariants, its bytes and its text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.op.blocks import Block
from tests.op.chain import Chain
from zeropoint.errors import ProgramError
from zeropoint.llm.generation import handles_of_linears, linears_that_ran
from zeropoint.program import Alternative, Arg, Call, Program
from zeropoint.program.io import read_program, write_program

CHAIN = Chain(k=64, n=64, group_size=32)


def program() -> Program:
    return Block(CHAIN, "norm", "residual").build("all")[0]


def test_bytes_and_text() -> None:
    made = program()
    assert made.alternatives == (Alternative(0, 1, 3),)
    assert made.plain_calls() == [1, 2, 3]
    assert read_program(write_program(made)) == made
    lines = [line for line in str(made).splitlines() if " | " in line]
    assert [line.split(" | ")[0].strip() for line in lines] == ["fused", "plain", "plain", "plain"]


@pytest.mark.parametrize(
    ("alternatives", "text"),
    [
        ((Alternative(0, 1, 4),), r"alternative\[0\]: calls 0 \+ 1 \+ 4; need some of each, after 0 and up to 4"),
        ((Alternative(0, 0, 3),), r"alternative\[0\]: calls 0 \+ 0 \+ 3"),
        ((Alternative(0, 1, 0),), r"alternative\[0\]: calls 0 \+ 1 \+ 0"),
        (
            (Alternative(0, 1, 3), Alternative(1, 1, 1)),
            r"alternative\[1\]: calls 1 \+ 1 \+ 1; need some of each, after 4",
        ),
        ((Alternative(0, 1, 2),), r"alternative\[0\]: tensor y is named by one side only and used later"),
    ],
)
def test_invariants(alternatives: tuple[Alternative, ...], text: str) -> None:
    with pytest.raises(ProgramError, match=text):
        replace(program(), alternatives=alternatives).verify()


@pytest.mark.parametrize(("ran", "count"), [({0}, 1), ({1, 2, 3}, 1), ({1}, 0)])
def test_a_fused_call_counts_as_the_linear_that_it_stands_for(ran: set[int], count: int) -> None:
    linears = linears_that_ran(program(), ran)
    assert [call.kernel for call in linears] == ["linear_dq8ca"] * count


@pytest.mark.parametrize(
    ("slots", "handles", "wanted"),
    [
        (("q", "y"), (3, 4), (3, 4)),  # two projections, merged
        (("q", "y", "residual"), (3, 9), (3,)),
        (("q", "y", "residual"), (3,), (3,)),  # one node of the model was both
    ],
)
def test_the_addition_of_a_residual_is_no_linear(
    slots: tuple[str, ...], handles: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    """A T5 of 30 linears had 38 on the device."""
    call = Call("linear", "linear_dq8ca", tuple(Arg(slot, index) for index, slot in enumerate(slots)), (), handles)
    assert handles_of_linears(call) == wanted

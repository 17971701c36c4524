"""A fusion that breaks an invariant of the Program is taken back: the calls are as good as without it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.op.blocks import Block
from tests.op.chain import Chain
from zeropoint import fusion
from zeropoint.errors import FusionWarning
from zeropoint.fusion.draft import Draft, Fused, Step
from zeropoint.program import Program
from zeropoint.program.text import program_text

BLOCK = Block(Chain(k=64, n=64, group_size=32), "norm", "residual")  # norm, quantize, linear, addition


def built(monkeypatch: pytest.MonkeyPatch, run: Callable[[Draft], None] | None = None) -> Program:
    """The block with these calls rewritten by one pass, or by none."""
    monkeypatch.setattr(fusion, "PASSES", {} if run is None else {"quantize": run})
    return BLOCK.build("all")[0]


def copy_of(draft: Draft, index: int, **slots: int) -> Step:
    """A call of the draft by another name, with some slots bound otherwise."""
    step = draft.steps[index]
    made = draft.rebound(step, {**step.args, **slots}, step.attrs)
    call = replace(made.call, name=draft.builder.unique_call("copy"))
    return Step(call, made.writes, made.origins)


def drop(draft: Draft) -> None:
    """The first call, which others read the result of."""
    draft.steps = draft.steps[1:]


def drop_output(draft: Draft) -> None:
    draft.steps = draft.steps[:-1]


def swap(draft: Draft) -> None:
    draft.steps = [*draft.steps[1:2], *draft.steps[:1], *draft.steps[2:]]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (drop, ".* reads h, which nothing has written"),
        (swap, ".* reads h, which nothing has written"),
        (drop_output, "nothing writes the output"),
    ],
)
def test_calls_that_do_not_compute_the_outputs(
    run: Callable[[Draft], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = program_text(built(monkeypatch))
    with pytest.warns(FusionWarning, match=f"fusion quantize is taken back: {reason}"):
        assert program_text(built(monkeypatch, run)) == wanted


def other_result(draft: Draft) -> Fused:
    """The fused call writes another tensor than the one that is read afterwards."""
    y = draft.info(draft.steps[0].args["y"])
    return Fused([copy_of(draft, 0, y=draft.builder.tensor("elsewhere", y.dtype, y.dims))], draft.steps[:1])


def reads_too_early(draft: Draft) -> Fused:
    """The fused call reads what the calls that it stands for would make."""
    return Fused([copy_of(draft, 1)], draft.steps[:2])


def apart(draft: Draft) -> Fused:
    return Fused([copy_of(draft, 0), copy_of(draft, 2)], [draft.steps[0], draft.steps[2]])


def gone(draft: Draft) -> Fused:
    return Fused([copy_of(draft, 0)], [copy_of(draft, 0)])


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (other_result, "is named by one side only and used later"),
        (reads_too_early, "reads .*, which nothing has written"),
        (apart, "its calls are not side by side"),
        (gone, "its calls are gone"),
    ],
)
def test_alternatives_that_leave_something_else(
    offered: Callable[[Draft], Fused], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken back alone: a sound one beside it stays."""

    def run(draft: Draft) -> None:
        last = draft.steps[-1]
        draft.alternatives = [offered(draft), Fused([copy_of(draft, -1)], [last])]

    with pytest.warns(FusionWarning, match=f"fusion quantize: an alternative is taken back: .*{reason}"):
        program = built(monkeypatch, run)
    plain = built(monkeypatch)
    assert [program.calls[index] for index in program.plain_calls()] == list(plain.calls)
    assert [[program.calls[index].kernel for index in item.fused_calls] for item in program.alternatives] == [
        ["elementwise_binary"]
    ]


@pytest.mark.parametrize(("option", "shown"), [("default", False), ("always", True)])
def test_a_user_is_told_only_on_request(option: str, shown: bool) -> None:
    """It costs speed alone, and there is nothing to do about it."""
    code = "import warnings, zeropoint.fusion; warnings.warn('x', zeropoint.errors.FusionWarning)"
    flags = [] if option == "default" else [f"-W{option}"]
    told = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True).stderr
    assert ("FusionWarning: x" in told) is shown

"""Indices outside what they index: refused before a run, or reported after it by the call that saw one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zeropoint.errors import ProgramError, RuntimeFailure
from zeropoint.program import Dim, Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.player import LoadedProgram, counters
from zeropoint.verification.interpreter import run_reference

TABLE = np.arange(24, dtype=np.float32).reshape(6, 4)
STRIDES = {f"x_stride{axis}": int(axis == 3) for axis in range(4)}


def embedded(host: str = "i64") -> tuple[Program, dict[str, bytes]]:
    """Rows of a table by ids [n], of which the first and then every second is checked."""
    b = ProgramBuilder()
    n = b.symbol("n", 1, 4)
    ids, y = b.tensor("ids", "i32", [Dim(0, ((2, 0),))]), b.tensor("y", "f32", [Dim(0, ((2, 0),)), 4])
    b.input(ids, host)
    b.check(0, 5, "rows of e", tensor=ids, sizes=[n], strides=[2])
    b.call("embedding", {"ids": ids, "table": b.constant("e", "f32", (6, 4), data=TABLE), "y": y}, {"first_row": 0})
    b.output(y)
    return b.build()


@pytest.mark.parametrize("bad", [6, -1, 2**40, -(2**40)])
def test_an_input_is_checked_before_anything_runs(bad: int) -> None:
    program, constants = embedded()
    text = rf"^input\[0\] ids: element 2 is {bad}; rows of e are 0 to 5$"
    with LoadedProgram(program, constants) as loaded:
        (good,) = loaded.execute([np.array([5, 0, 1, 2])])
        submits = counters()["submits"]
        with pytest.raises(RuntimeFailure, match=text):
            loaded.execute([np.array([5, 0, bad, 2])])
        assert counters()["submits"] == submits
        assert np.array_equal(loaded.execute([np.array([5, 0, 1, 2])])[0], good)
    with pytest.raises(ProgramError, match=text):
        run_reference(program, constants, [torch.tensor([5, 0, bad, 2])])


def test_elements_that_no_check_names_may_be_anything() -> None:
    program, constants = embedded("i32")
    ids = np.array([1, 9, 3, -7, 5, 2], np.int32)
    with LoadedProgram(program, constants) as loaded:
        (y,) = loaded.execute([ids])
    assert np.array_equal(y, TABLE[ids.clip(0, 5)]), "an id outside has the nearest row, and no stale one"
    assert torch.equal(run_reference(program, constants, [torch.from_numpy(ids)]).outputs[0], torch.from_numpy(y))


def test_a_check_of_elements_that_are_not_there_is_refused() -> None:
    b = ProgramBuilder()
    n = b.symbol("n", 0, 4)
    ids, y = b.tensor("ids", "i32", [n]), b.tensor("y", "i32", [3])
    b.input(ids)
    b.check(0, 5, "rows", tensor=ids, offset=1, sizes=[4], strides=[-1])
    b.call("arange", {"y": y}, {"start": 0, "step": 1})
    b.output(y)
    with LoadedProgram(*b.build()) as loaded:
        for count in (0, 3, 4):
            with pytest.raises(RuntimeFailure, match=r"^input\[0\] ids: a check of elements that it does not have$"):
                loaded.execute([np.zeros(count, np.int32)])


def test_an_integer_argument_is_checked() -> None:
    b = ProgramBuilder()
    n, start = b.symbol("n", 1, 4), b.symbol("start", 0, 100)
    x, y = b.tensor("x", "f32", [n]), b.tensor("y", "i32", [n])
    b.input(x)
    b.input_symbol(start)
    b.check(0, Dim(8, ((-1, 0),)), "places of k", symbol=start)
    b.call("arange", {"y": y}, {"start": start, "step": 1})
    b.output(y)
    program, constants = b.build()
    with LoadedProgram(program, constants) as loaded:
        assert loaded.execute([np.zeros(3, np.float32), 5])[0].tolist() == [5, 6, 7]
        with pytest.raises(RuntimeFailure, match=r"^input\[1\] start: element 0 is 6; places of k are 0 to 5$"):
            loaded.execute([np.zeros(3, np.float32), 6])
    with pytest.raises(ProgramError, match=r"^input\[1\] start: element 0 is 6; places of k are 0 to 5$"):
        run_reference(program, constants, [torch.zeros(3), 6])


def faulting() -> tuple[Program, dict[str, bytes]]:
    """ids [n] checked on the device by two calls, and written into a state from there."""
    b = ProgramBuilder()
    n = b.symbol("n", 1, 300)
    ids = b.tensor("ids", "i32", [n])
    state = b.state("k", "i32", (8,))
    b.input(ids)
    sizes = {"size0": 1, "size1": 1, "size2": 1, "size3": n, "x_offset": 0, **STRIDES}
    places = ids
    for low, high, name in ((-8, 7, "first"), (0, 7, "second")):
        y = b.tensor(name, "i32", [n])
        bounds = {"low": low, "high": high, "wrap": 8 if low else 0, "outside": -100, "call": 0}
        slots = {"x": places, "y": y, "faults": b.faults()}
        b.call("check_index", slots, {**sizes, **bounds}, name=f"{name} index")
        places = y
    strides = {f"{slot}_stride{axis}": int(axis == 3) for slot in ("x", "index") for axis in range(4)}
    strides |= {f"y_stride{axis}": 0 for axis in range(4)}
    attrs = {**sizes, **strides, "index_offset": 0, "y_offset": 0, "axis_stride": 1, "axis_length": 8}
    b.call("scatter", {"x": ids, "index": places, "y": state}, attrs, name="put")
    b.output(b.alias(places, [n]))
    return b.build(drop_unused=True)


def test_a_call_reports_an_index_that_it_was_given() -> None:
    """The other indices of that run are good, but it has no result: states are what they were before it."""
    program, constants = faulting()
    states: dict[str, torch.Tensor] = {}
    with LoadedProgram(program, constants) as loaded:
        assert loaded.execute([np.array([3, -1], np.int32)])[0].tolist() == [3, 7]
        run_reference(program, constants, [torch.tensor([3, -1], dtype=torch.int32)], states)
        kept = [0, 0, 0, 3, 0, 0, 0, -1]
        text = r"^call\[0\] first index: element 200, computed on the device, is 8; need -8 to 7$"
        ids = np.arange(300, dtype=np.int32) % 8
        ids[200] = 8
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match=text):
                loaded.execute([ids])
            with pytest.raises(ProgramError, match=text):
                run_reference(program, constants, [torch.from_numpy(ids)], states)
            found = loaded.read_tensor(next(i for i, t in enumerate(program.tensors) if t.name == "k"))
            assert found.tolist() == kept
            assert states["k"].tolist() == kept
        assert loaded.execute([np.array([3, -1], np.int32)])[0].tolist() == [3, 7], "the next run starts without faults"

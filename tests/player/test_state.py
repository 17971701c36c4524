"""States, aliases, derived symbols and symbolic attributes on a device."""

from __future__ import annotations

import numpy as np
import pytest

from zeropoint.errors import RuntimeFailure
from zeropoint.program import Dim, Program, SymbolOp
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.player import LoadedProgram, counters, reset_states


def strided(
    rows: int | Dim, columns: int, *, offset: int | Dim = 0, x_strides: tuple[int | Dim, int | Dim] | None = None
) -> dict[str, int | float | Dim]:
    """Attributes of a strided_copy of [rows, columns] into a place of a dense y."""
    steps = x_strides or (columns, 1)
    zeros = {f"{slot}_stride{axis}": 0 for slot in "xy" for axis in range(2)}
    return {
        **{"size0": 1, "size1": 1, "size2": rows, "size3": columns, "x_offset": 0, "y_offset": offset},
        **zeros,
        **{"x_stride2": steps[0], "x_stride3": steps[1], "y_stride2": columns, "y_stride3": 1},
    }


def log(*, first: np.ndarray | None = None) -> tuple[Program, dict[str, bytes]]:
    """x [n, 4] goes into the state's rows from n on, and the whole state comes out."""
    b = ProgramBuilder()
    n = b.symbol("n", 1, 3)
    x = b.tensor("x", "f32", [n, 4])
    state = b.state("log", "f32", [6, 4], data=first)
    y = b.tensor("y", "f32", [6, 4])
    b.input(x)
    b.call("strided_copy", {"x": x, "y": state}, strided(n, 4, offset=Dim(0, ((4, 0),))))
    b.call("strided_copy", {"x": b.alias(state, [24]), "y": y}, strided(6, 4))
    b.output(y)
    return b.build()


def rows(n: int, value: float) -> np.ndarray:
    return np.full((n, 4), value, np.float32)


def test_a_state_keeps_its_contents_until_it_is_reset() -> None:
    with LoadedProgram(*log()) as loaded:
        loaded.execute([rows(1, 1)])
        (found,) = loaded.execute([rows(2, 2)])
        assert found[:, 0].tolist() == [0, 1, 2, 2, 0, 0]
        assert loaded.read_tensor(1)[:, 0].tolist() == [0, 1, 2, 2, 0, 0]
        loaded.reset()
        assert loaded.execute([rows(2, 3)])[0][:, 0].tolist() == [0, 0, 3, 3, 0, 0]


def test_a_state_has_first_contents() -> None:
    first = np.arange(24, dtype=np.float32).reshape(6, 4)
    with LoadedProgram(*log(first=first)) as loaded:
        for _ in range(2):
            (found,) = loaded.execute([rows(2, -1)])
            assert found[:, 0].tolist() == [0, 4, -1, -1, 16, 20]
            loaded.execute([rows(3, 9)])
            reset_states()


def test_two_loads_have_states_of_their_own() -> None:
    with LoadedProgram(*log()) as one, LoadedProgram(*log()) as two:
        one.execute([rows(1, 1)])
        assert two.execute([rows(2, 2)])[0][:, 0].tolist() == [0, 0, 2, 2, 0, 0]


def test_a_step_that_advances_records_once_and_allocates_nothing() -> None:
    with LoadedProgram(*log()) as loaded:
        loaded.execute([rows(1, 0)])
        before = counters()
        for step in range(10):
            loaded.execute([rows(1, step)])
        after = counters()
    assert {name: after[name] - before[name] for name in ("recordings", "device_allocations")} == {
        "recordings": 0,
        "device_allocations": 0,
    }


def test_derived_symbols_and_symbolic_attributes() -> None:
    """y [2 * (n * n // 2)] is the first part of x [n, n] as it lies, n * n // 2 rows of 2."""
    b = ProgramBuilder()
    n = b.symbol("n", 1, 9)
    square = b.derived(SymbolOp.PRODUCT, n, n)
    half = b.derived(SymbolOp.QUOTIENT, square, Dim(2))
    x = b.tensor("x", "f32", [n, n])
    y = b.tensor("y", "f32", [half, 2])
    b.input(x)
    b.call("strided_copy", {"x": x, "y": y}, strided(half, 2))
    b.output(y)
    program, constants = b.build()
    with LoadedProgram(program, constants) as loaded:
        for size in (4, 5, 9, 1):
            given = np.arange(size * size, dtype=np.float32).reshape(size, size)
            (found,) = loaded.execute([given])
            assert found.tolist() == given.reshape(-1)[: size * size // 2 * 2].reshape(-1, 2).tolist()


def test_an_output_is_an_alias() -> None:
    b = ProgramBuilder()
    x, y = b.tensor("x", "f32", [6, 4]), b.tensor("y", "f32", [6, 4])
    b.input(x)
    b.call("strided_copy", {"x": x, "y": y}, strided(6, 4))
    b.output(b.alias(y, [4, 6]))
    for keep_all in (False, True):
        with LoadedProgram(*b.build(), keep_all=keep_all) as loaded:
            assert loaded.execute([np.arange(24, dtype=np.float32).reshape(6, 4)])[0].shape == (4, 6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda b, x: b.call("strided_copy", {"x": x, "y": b.alias(x, [24])}, strided(6, 4)), "shares memory with"),
        (
            lambda b, x: b.call(
                "strided_copy", {"x": b.alias(b.tensor("late", "f32", [24]), [6, 4]), "y": x}, strided(6, 4)
            ),
            "is read before anything writes it",
        ),
    ],
)
def test_aliases_are_the_memory_they_name(change: object, text: str) -> None:
    b = ProgramBuilder()
    x = b.tensor("x", "f32", [6, 4])
    b.input(x)
    change(b, x)  # type: ignore[operator]
    b.output(x)
    with pytest.raises(RuntimeFailure, match=text):
        LoadedProgram(*b.build())


def test_an_integer_that_is_known_otherwise_must_agree() -> None:
    """A derived symbol, and one that a dimension gives, may come as integers too."""
    b = ProgramBuilder()
    n = b.symbol("n", 1, 9)
    x, y = b.tensor("x", "f32", [n, 4]), b.tensor("y", "f32", [n, 4])
    b.input(x)
    b.input_symbol(b.derived(SymbolOp.PRODUCT, n, n))
    b.input_symbol(n)
    b.call("strided_copy", {"x": x, "y": y}, strided(n, 4))
    b.output(y)
    with LoadedProgram(*b.build()) as loaded:
        assert loaded.execute([rows(3, 1), 9, 3])[0].shape == (3, 4)
        with pytest.raises(RuntimeFailure, match=r"^input\[1\]: value 8; need 9$"):
            loaded.execute([rows(3, 1), 8, 3])
        with pytest.raises(RuntimeFailure, match=r"^input\[2\]: value -1; need 3$"):
            loaded.execute([rows(3, 1), 9, -1])


def test_states_are_told_apart_by_their_whole_names() -> None:
    b = ProgramBuilder()
    x = b.tensor("x", "f32", [1, 4])
    b.input(x)
    for last in "ab":
        state = b.state("layer." * 15 + last, "f32", [6, 4])
        y = b.tensor("y", "f32", [6, 4])
        b.call("strided_copy", {"x": x, "y": state}, strided(1, 4, offset=4 if last == "a" else 8))
        b.call("strided_copy", {"x": b.alias(state, [24]), "y": y}, strided(6, 4))
        b.output(y)
    with LoadedProgram(*b.build()) as loaded:
        first, second = loaded.execute([rows(1, 1)])
        assert first[:, 0].tolist() == [0, 1, 0, 0, 0, 0]
        assert second[:, 0].tolist() == [0, 0, 1, 0, 0, 0]


def test_an_alias_of_a_state_has_dimensions_of_its_own() -> None:
    b = ProgramBuilder()
    n = b.symbol("n", 1, 3)
    x, y = b.tensor("x", "f32", [n, 4]), b.tensor("y", "f32", [n, 4])
    state = b.state("log", "f32", [6, 4], data=np.arange(24, dtype=np.float32))
    b.input(x)
    part = b.alias(state, [n, 4])
    b.call("strided_copy", {"x": part, "y": y}, strided(n, 4))
    b.output(y)
    with LoadedProgram(*b.build()) as loaded:
        with pytest.raises(RuntimeFailure, match=r"^tensor log\.view: load with keep_all and execute first$"):
            loaded.read_tensor(part)
        assert loaded.execute([rows(2, 0)])[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert loaded.read_tensor(part).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert loaded.read_tensor(state).shape == (6, 4)

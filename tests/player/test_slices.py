"""A long run is several submits, a short one is one: the same bytes either way."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest

from zeropoint.errors import RuntimeFailure
from zeropoint.kernels._generated.signatures import GateOp
from zeropoint.program import Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.devices import devices
from zeropoint.runtime.player import LoadedProgram, counters

N_CALLS = 6
ROW = 64
devices_of_their_own = itertools.count(20_000)


def gates(n: int) -> Program:
    """Calls that each read what the one before wrote, of n elements."""
    b = ProgramBuilder()
    x = last = b.tensor("x", "f32", [n // ROW, ROW])
    b.input(x)
    row = {"row_length": ROW, "gate_offset": 0, "gate_row_stride": ROW, "up_offset": 0, "up_row_stride": ROW}
    for i in range(N_CALLS):
        y = b.tensor(f"y{i}", "f32", [n // ROW, ROW])
        b.call("gated_activation", {"gate": last, "up": x, "y": y}, {"op": int(GateOp.RELU), **row})
        last = y
    b.output(last)
    return b.build()[0]


def submits_of(loaded: LoadedProgram, x: np.ndarray) -> tuple[int, np.ndarray]:
    before = counters()["submits"]
    (y,) = loaded.execute([x])
    return counters()["submits"] - before, y


@pytest.fixture(autouse=True)
def device_without_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests ran tells nothing about the speed of this one's: facts of its own are a device of its own."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", f"max_push_bytes={next(devices_of_their_own)}")


@pytest.mark.parametrize("staging", [False, True], ids=["", "staging"])
def test_a_submit_for_each_call_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch, staging: bool) -> None:
    x = np.random.default_rng(0).standard_normal((16, ROW), np.float32)
    found = []
    if staging:
        monkeypatch.setenv("ZEROPOINT_STAGING", "1")
    for milliseconds in ("60000", "0", "1e-9"):
        monkeypatch.setenv("ZEROPOINT_SLICE_MS", milliseconds)
        with LoadedProgram(gates(x.size), profile=True) as loaded:
            found += [submits_of(loaded, x) for _ in range(3)]
            times = [pick.time_ns for pick in loaded.picks()]
            assert len(times) == N_CALLS
            assert None not in times
    assert [submits for submits, _ in found] == [1] * 6 + [N_CALLS] * 3
    assert all(np.array_equal(y, found[0][1]) for _, y in found)


def test_what_turns_out_to_be_short_is_recorded_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess says seconds; the first run, in several submits, shows that one is enough."""
    wanted = os.environ.get("ZEROPOINT_DEVICE", "")
    gpu = any(device.type == "discrete" for device in devices()) and wanted != "cpu"
    monkeypatch.setenv("ZEROPOINT_SLICE_MS", "16" if gpu else "800")
    x = np.random.default_rng(0).standard_normal((65_536, ROW), np.float32)
    with LoadedProgram(gates(x.size)) as loaded:
        first, y = submits_of(loaded, x)
        assert first > 1
        later = [submits_of(loaded, x)[0] for _ in range(8)]
        before = counters()
        last, same = submits_of(loaded, x)
        changed = {name for name, count in counters().items() if count != before[name]}
    assert (later[-1], last) == (1, 1)
    assert changed == {"executes", "submits"}
    np.testing.assert_array_equal(y, same)


def test_what_turns_out_to_be_long_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess says microseconds; two runs, a submit each, show that the device takes longer to answer at all."""
    monkeypatch.setenv("ZEROPOINT_SLICE_MS", "0.02")
    x = np.random.default_rng(0).standard_normal((16, ROW), np.float32)
    with LoadedProgram(gates(x.size)) as loaded:
        (first, y), (second, _), (third, same) = (submits_of(loaded, x) for _ in range(3))
        before = counters()["recordings"]
        submits_of(loaded, x)
        assert counters()["recordings"] == before
    assert (first, second) == (1, 1)
    assert third > 1
    np.testing.assert_array_equal(y, same)


@pytest.mark.parametrize("text", ["fast", "5ms", "-1", "nan"])
def test_no_number_of_milliseconds_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ZEROPOINT_SLICE_MS", text)
    said = f"ZEROPOINT_SLICE_MS: {text}; need milliseconds, or 0: one submit a run"
    with pytest.raises(RuntimeFailure, match=f"{said}$"):
        LoadedProgram(gates(ROW))

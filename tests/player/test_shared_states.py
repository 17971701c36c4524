"""States that the methods of one .pte share, or do not, through ExecuTorch."""

from __future__ import annotations

import gc
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from executorch.exir import ExecutorchProgramManager, to_edge, to_edge_transform_and_lower
from executorch.exir.pass_base import ExportPass
from executorch.runtime import Method, Runtime

import zeropoint
from zeropoint.export import preprocess
from zeropoint.program import Program
from zeropoint.runtime.player import counters, programs, reset_states

PassManagerArgument = dict[str, list[ExportPass]] | None
EXAMPLE = (torch.ones(1, 8), torch.tensor([1]))


class Log(torch.nn.Module):
    """Writes a row into a log and returns the log. apart: doubles the row first, in a delegate without state."""

    def __init__(self, *, apart: bool = False, first: float = 0.0, rows: int = 4) -> None:
        super().__init__()
        self.apart = apart
        self.register_buffer("log", torch.full((rows, 8), float(first)))
        self.register_buffer("weight", torch.ones(rows, 8))

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        if self.apart:
            x = torch.fmod(x * 2, 2.0**20)  # itself; no rule takes it, so that it stays on the CPU
        self.log[at] = x
        return self.log * self.weight


class Reread(Log):
    """Reads the log on the CPU, as it was and as it is: 100 times the old one more than the new one."""

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        before = torch.fmod(self.log, 2.0**20)
        self.log[at] = x
        return torch.fmod(self.log, 2.0**20) * self.weight + before * 100


class Inner(torch.nn.Module):
    """A log under another name."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.inner = log

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x, at)
        return result


class Reader(torch.nn.Module):
    """Reads a log that it never writes. last: the CPU reads it too."""

    def __init__(self, log: Log, *, last: bool = False) -> None:
        super().__init__()
        self.inner, self.last = log, last

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        found = x * 0 + self.inner.log
        return found + torch.fmod(self.inner.log, 2.0**20) * 0 if self.last else found


def made(
    options: zeropoint.CompileOptions | None = None, *, passes: PassManagerArgument = None, **modules: torch.nn.Module
) -> ExecutorchProgramManager:
    """A method per module."""
    methods = {name: torch.export.export(module, EXAMPLE) for name, module in modules.items()}
    partitioner = zeropoint.ZeropointPartitioner(options)
    edge = to_edge_transform_and_lower(methods, transform_passes=passes, partitioner=[partitioner])
    return edge.to_executorch()


def lowered(options: zeropoint.CompileOptions | None = None, **modules: torch.nn.Module) -> bytes:
    """A .pte with a method per module."""
    return bytes(made(options, **modules).buffer)


class Loaded:
    """Methods of a .pte, loaded by name; `drop` unloads one."""

    def __init__(self, pte: bytes | Path, *names: str, data: Path | None = None) -> None:
        zeropoint.register()
        self._pte = pte
        self._program = Runtime.get().load_program(pte, **({} if data is None else {"data_path": data}))
        self._methods: dict[str, object] = {}
        for name in names:
            self.load(name)

    def load(self, name: str) -> None:
        """Not by the Program's own load_method, which gives a method that it has loaded once more."""
        self._methods[name] = Method(self._program._program.load_method(name))

    def drop(self, name: str) -> None:
        del self._methods[name]
        gc.collect()

    def __call__(self, name: str, value: float, at: int) -> list[float]:
        """The log's first column after a row of the value went in."""
        (found,) = self._methods[name].execute([torch.full((1, 8), float(value)), torch.tensor([at])])  # type: ignore[attr-defined]
        return found[:, 0].tolist()


@pytest.fixture(scope="module")
def pte() -> bytes:
    log = Log()
    return lowered(one=log, two=log)


def test_methods_share_a_state_and_its_reset(pte: bytes) -> None:
    both = Loaded(pte, "one", "two")
    both("one", 1, 0)
    assert both("two", 2, 1) == [1, 2, 0, 0]
    assert both("one", 3, 2) == [1, 2, 3, 0]
    reset_states()
    assert both("two", 4, 3) == [0, 0, 0, 4]


def test_methods_share_a_state_that_executorch_copied() -> None:
    """As it does with the methods that transform_passes leave out, whole."""
    log = Log()
    both = Loaded(bytes(made(passes={"one": [ExportPass()]}, one=log, two=Inner(log)).buffer), "one", "two")
    both("one", 1, 0)
    assert both("two", 2, 1) == [1, 2, 0, 0]


def test_a_method_that_is_loaded_again_finds_the_state(pte: bytes) -> None:
    both = Loaded(pte, "one", "two")
    both("one", 1, 0)
    both.drop("two")
    both.load("two")
    assert both("two", 2, 1) == [1, 2, 0, 0]


def test_two_loads_share_nothing_and_leave_nothing(pte: bytes) -> None:
    before = counters()["device_bytes"]
    first, second = Loaded(pte, "one"), Loaded(pte, "one")
    first("one", 1, 0)
    assert second("one", 2, 1) == [0, 2, 0, 0]
    del first, second
    gc.collect()
    assert (programs(), counters()["device_bytes"]) == ((), before)


def test_delegates_without_a_state_do_not_come_between() -> None:
    """A method of two delegates, of which only the second has the state."""
    log = Log(apart=True)
    both = Loaded(lowered(one=log, two=log), "one", "two")
    assert len(programs()) == 4
    both("one", 1, 0)
    assert both("two", 2, 1) == [2, 4, 0, 0]


@pytest.mark.parametrize("rows", [4, 3])
def test_a_name_alone_shares_nothing(rows: int) -> None:
    both = Loaded(lowered(one=Log(), two=Log(rows=rows, first=5)), "one", "two")
    both("one", 1, 0)
    assert both("two", 2, 1) == [5, 2, 5, 5][:rows]
    assert both("one", 3, 2) == [1, 0, 3, 0]


def test_one_buffer_under_two_names_is_shared() -> None:
    log = Log(first=1)
    both = Loaded(lowered(one=log, two=Inner(log)), "one", "two")
    both("one", 4, 0)
    assert both("two", 2, 1) == [4, 2, 1, 1]


def test_the_other_way_of_lowering_shares_too() -> None:
    log = Log()
    methods = {name: torch.export.export(log, EXAMPLE) for name in ("one", "two")}
    partitioners = {name: zeropoint.ZeropointPartitioner() for name in methods}
    both = Loaded(bytes(to_edge(methods).to_backend(partitioners).to_executorch().buffer), "one", "two")
    both("one", 1, 0)
    assert both("two", 2, 1) == [1, 2, 0, 0]


def test_buffers_that_the_user_names_are_shared() -> None:
    options = zeropoint.CompileOptions(shared_states="log")
    both = Loaded(lowered(options, one=Log(), two=Log()), "one", "two")
    both("one", 1, 0)
    assert both("two", 2, 1) == [1, 2, 0, 0]


@pytest.mark.parametrize("ptd", [False, True], ids=["pte", "ptd"])
def test_a_weights_file_changes_nothing(tmp_path: Path, ptd: bool) -> None:
    log = Log()
    manager = made(zeropoint.CompileOptions(weights_file="w" if ptd else ""), one=log, two=log)
    (tmp_path / "m.pte").write_bytes(manager.buffer)
    if ptd:
        manager.write_tensor_data_to_file(str(tmp_path))
    loads = [Loaded(tmp_path / "m.pte", "one", "two", data=tmp_path / "w.ptd" if ptd else None) for _ in range(2)]
    for number, both in enumerate(loads):
        both("one", 1 + number, 0)
        assert both("two", 2, 1) == [1 + number, 2, 0, 0]


@pytest.mark.parametrize("order", [("write", "read"), ("read", "write")])
def test_a_method_reads_what_another_writes(order: tuple[str, str]) -> None:
    log = Log(first=1)
    methods: dict[str, torch.nn.Module] = {"write": log, "read": Reader(log)}
    both = Loaded(lowered(**{name: methods[name] for name in order}), *order)
    assert both("read", 0, 0) == [1, 1, 1, 1]
    both("write", 4, 2)
    assert both("read", 0, 0) == [1, 1, 4, 1]


@pytest.mark.parametrize("order", [("one", "sums"), ("sums", "one")])
def test_a_state_that_its_own_method_reads_on_the_cpu_stays_on_the_device(order: tuple[str, str]) -> None:
    log, sums = Log(), Reread()
    sums.log = log.log
    methods: dict[str, torch.nn.Module] = {"one": log, "sums": sums}
    both = Loaded(lowered(**{name: methods[name] for name in order}), *order)
    both("one", 1, 0)
    assert both("sums", 2, 1) == [101, 2, 0, 0]
    assert both("one", 3, 2) == [1, 2, 3, 0]
    assert both("sums", 4, 3) == [101, 202, 303, 4]


def test_older_programs_share_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    lower = preprocess.lower_program

    def older(*args: object) -> tuple[Program, dict[str, bytes]]:
        program, constants = lower(*args)
        keys = {key: hashlib.sha256(data).hexdigest() for key, data in constants.items()}
        tensors = tuple(replace(t, constant=keys.get(t.constant, ""), shared="") for t in program.tensors)
        return replace(program, tensors=tensors, version=3), {keys[key]: data for key, data in constants.items()}

    monkeypatch.setattr(preprocess, "lower_program", older)
    both = Loaded(lowered(one=Log(), two=Log()), "one", "two")
    both("one", 1, 0)
    assert both("two", 2, 1) == [1, 2, 0, 0]
    with pytest.raises(RuntimeError):
        Loaded(lowered(one=Log(first=1), two=Log(first=2)), "one", "two")

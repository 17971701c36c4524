"""States that the methods of one .pte share by name, through ExecuTorch."""

from __future__ import annotations

import gc

import pytest
import torch
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime

import zeropoint
from zeropoint.runtime.player import counters, programs, reset_states


class Log(torch.nn.Module):
    """Writes a row into a log and returns the log. apart: doubles the row first, in a delegate without state."""

    def __init__(self, *, apart: bool = False, first: float = 0.0) -> None:
        super().__init__()
        self.apart = apart
        self.register_buffer("log", torch.full((4, 8), float(first)))
        self.register_buffer("weight", torch.ones(4, 8))  # ExecuTorch tells loads apart by their named data

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        if self.apart:
            x = torch.cumsum(x * 2, 0)  # of one row: itself; no rule takes it, so that it stays on the CPU
        self.log[at] = x
        return self.log * self.weight


def lowered(**modules: Log) -> bytes:
    """A .pte with a method per module."""
    example = (torch.ones(1, 8), torch.tensor([1]))
    methods = {name: torch.export.export(module, example) for name, module in modules.items()}
    partitioner = {name: [zeropoint.ZeropointPartitioner()] for name in modules}
    return bytes(to_edge_transform_and_lower(methods, partitioner=partitioner).to_executorch().buffer)


class Loaded:
    """Methods of a .pte, loaded by name; `drop` unloads one."""

    def __init__(self, pte: bytes) -> None:
        zeropoint.register()
        self._pte = pte
        self._program = Runtime.get().load_program(pte)
        self._methods: dict[str, object] = {}

    def load(self, name: str) -> None:
        self._methods[name] = self._program.load_method(name)

    def drop(self, name: str) -> None:
        del self._methods[name]
        gc.collect()

    def __call__(self, name: str, value: float, at: int) -> list[float]:
        """The log's first column after a row of the value went in."""
        (found,) = self._methods[name].execute([torch.full((1, 8), float(value)), torch.tensor([at])])  # type: ignore[attr-defined]
        return found[:, 0].tolist()


@pytest.fixture(scope="module")
def pte() -> bytes:
    return lowered(one=Log(), two=Log())


def test_methods_share_a_state_and_its_reset(pte: bytes) -> None:
    both = Loaded(pte)
    both.load("one")
    both.load("two")
    both("one", 1, 0)
    assert both("two", 2, 1) == [1, 2, 0, 0]
    assert both("one", 3, 2) == [1, 2, 3, 0]
    reset_states()
    assert both("two", 4, 3) == [0, 0, 0, 4]


def test_a_method_that_is_loaded_again_finds_the_state(pte: bytes) -> None:
    both = Loaded(pte)
    both.load("one")
    both.load("two")
    both("one", 1, 0)
    both.drop("two")
    both.load("two")
    assert both("two", 2, 1) == [1, 2, 0, 0]


def test_two_loads_share_nothing_and_leave_nothing(pte: bytes) -> None:
    before = counters()["device_bytes"]
    first, second = Loaded(pte), Loaded(pte)
    for loaded in (first, second):
        loaded.load("one")
    first("one", 1, 0)
    assert second("one", 2, 1) == [0, 2, 0, 0]
    del first, second, loaded
    gc.collect()
    assert (programs(), counters()["device_bytes"]) == ((), before)


def test_delegates_without_a_state_do_not_come_between() -> None:
    """A method of two delegates, of which only the second has the state."""
    both = Loaded(lowered(one=Log(apart=True), two=Log(apart=True)))
    both.load("one")
    both.load("two")
    assert len(programs()) == 4
    both("one", 1, 0)
    assert both("two", 2, 1) == [2, 4, 0, 0]


def test_methods_must_agree_on_the_first_contents(capfd: pytest.CaptureFixture[str]) -> None:
    both = Loaded(lowered(one=Log(first=1), two=Log(first=2)))
    both.load("one")
    with pytest.raises(RuntimeError):
        both.load("two")
    text = "program: state log: 128 bytes; another method has 128 bytes, or other first contents"
    assert text in capfd.readouterr().err

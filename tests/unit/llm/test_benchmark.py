from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.unit.llm.small import CONTEXT, METADATA, PREFILL, write
from zeropoint.cli.main import main
from zeropoint.errors import OptionError
from zeropoint.llm import benchmark
from zeropoint.llm.benchmark import BenchmarkOptions, Measurement, measure_loads, measure_text
from zeropoint.llm.generation import TextProgram
from zeropoint.llm.kernel_times import work_of
from zeropoint.program import Arg, Call
from zeropoint.runtime.player import TensorInfo


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bench") / "small.pte", METADATA)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(tokens, position) of every call of the model; no warm-up but the one run."""
    seen: list[tuple[int, int]] = []
    real = TextProgram.scores

    def scores(self: TextProgram, tokens: list[int], position: int) -> object:
        seen.append((len(tokens), position))
        return real(self, tokens, position)

    monkeypatch.setattr(TextProgram, "scores", scores)
    monkeypatch.setattr(benchmark, "WARM_UP_S", 0.0)
    return seen


def test_what_is_run(path: Path, calls: list[tuple[int, int]]) -> None:
    """A warm-up and each run: a prompt in pieces; a depth is filled once, then decoded from there each time."""
    place, found = measure_text(path, BenchmarkOptions(prefill=(PREFILL + 2,), depths=(0, 5), tokens=3, runs=2))
    results = list(found)
    assert [(item.test, item.unit, len(item.values)) for item in results] == [
        ("pp8", "tokens/s", 2),
        ("tg3", "tokens/s", 2),
        ("tg3@d5", "tokens/s", 2),
    ]
    assert all(value > 0 for item in results for value in item.values)
    steps = [(1, 0), (1, 1), (1, 2)]
    deeper = [(1, 5), (1, 6), (1, 7)]
    assert calls == [(PREFILL, 0), (2, PREFILL)] * 3 + steps * 3 + [(5, 0)] + deeper * 3
    assert (place.model, bool(place.device), bool(place.driver)) == ("small", True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BenchmarkOptions(prefill=(CONTEXT + 1,)), "bench: prefill 17; the cache holds 1 to 16 tokens"),
        (BenchmarkOptions(prefill=(4,), depths=(12,), tokens=5), "bench: depth 12 and 5 tokens; the cache holds 16"),
    ],
)
def test_a_cache_too_short(path: Path, options: BenchmarkOptions, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        measure_text(path, options)


@pytest.mark.slow
def test_loads_in_processes_of_their_own(path: Path) -> None:
    found = measure_loads(path)
    assert [(item.test, item.unit) for item in found] == [
        (f"{what}, {state} pipeline cache", "s") for state in ("empty", "filled") for what in ("load", "first call")
    ]
    assert all(item.median > 0 for item in found)


def test_median_and_spread() -> None:
    found = Measurement("pp128", "tokens/s", (3.0, 1.0, 2.0))
    assert found.median == 2.0
    assert str(found).split() == "pp128 2.00 tokens/s 1.00 to 3.00 in 3".split()


def info(dtype: str, *dims: int, memory: str = "arena") -> TensorInfo:
    return TensorInfo("t", dtype, "buffer", memory, dims, 0)


def test_work_of_a_linear() -> None:
    """[3, 64] x [64, 24], four bits a weight: 2 * 3 * 64 * 24 operations."""
    tensors = [info("i8", 3, 64), info("i4", 2, 24, 32, memory="constant"), info("f32", 3, 24)]
    call = Call("l", "linear_dq8ca", (Arg("q", 0), Arg("w", 1), Arg("y", 2)), ())
    assert work_of(call, tensors, 1.0) == (3 * 64 + 64 * 24 // 2 + 3 * 24 * 4, 2 * 3 * 64 * 24)


def test_work_of_lookups_and_caches() -> None:
    """A table's rows that are read are as large as what is written; of a cache the filled part counts."""
    tensors = [info("f32", 1000, 8, memory="constant"), info("f16", 2, 16, memory="state"), info("f32", 4, 8)]
    lookup = Call("e", "embedding", (Arg("table", 0), Arg("y", 2)), ())
    assert work_of(lookup, tensors, 1.0) == (4 * 8 * 4, 0)
    packed = [info("i8", 2, 1000, 16, memory="constant"), info("f32", 4, 32)]
    lookup = Call("e", "embedding_packed", (Arg("w", 0), Arg("y", 1)), ())
    assert work_of(lookup, packed, 1.0) == (4 * 32 * 4, 0)
    attention = Call("a", "attention", (Arg("k", 1), Arg("y", 2)), ())
    assert work_of(attention, tensors, 0.25) == (2 * 16 * 2 // 4 + 4 * 8 * 4, 0)


def test_command(path: Path, tmp_path: Path, calls: list[tuple[int, int]]) -> None:
    results = tmp_path / "results.jsonl"
    arguments = ["--prefill", "6", "--depth", "4", "-n", "2", "--runs", "2", "--kernels", "--json", str(results)]
    run = CliRunner().invoke(main, ["bench", str(path), *arguments])
    assert run.exit_code == 0, run.output
    assert "most that this device did: copy " in run.output
    assert "6 tokens at 0: " in run.output
    assert "1 tokens at 4: " in run.output
    assert " GB/s " in run.output
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(line["test"], line["model"], len(line["runs"])) for line in lines] == [
        ("pp6", "small", 2),
        ("tg2@d4", "small", 2),
    ]
    assert all(line["median"] > 0 and line["device"] and line["date"] for line in lines)

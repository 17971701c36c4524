from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.llm.small import CONTEXT, METADATA, PREFILL, write
from zeropoint.cli.main import main
from zeropoint.llm import tuning
from zeropoint.llm.benchmark import BenchmarkOptions, Measurement, measure_text
from zeropoint.llm.generation import TextProgram
from zeropoint.llm.tuning import HEADER, MAX_BYTES, Times, keep, points_of
from zeropoint.runtime import player
from zeropoint.runtime.player import Pick

KERNEL, SLOW, FAST = "linear_dq8ca", "tiled_nodot", "gemv_nodot"  # FAST is for up to 8 rows
Fake = Callable[[Pick], int | None]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tune") / "small.pte", METADATA)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of its own; no warm-up."""
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "WARM_UP_S", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake], None]:
    """times(fake): a device on which a call takes fake(pick) nanoseconds."""
    real = player.picks_of

    def set_times(fake: Fake) -> None:
        def picks_of(live: int) -> tuple[Pick, ...]:
            return tuple(dataclasses.replace(pick, time_ns=fake(pick)) for pick in real(live))

        monkeypatch.setattr(player, "picks_of", picks_of)

    return set_times


def by_algorithm(pick: Pick) -> int:
    return 700 if pick.kernel == KERNEL and pick.algorithm == FAST else 1000


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def picked(path: Path) -> Pick:
    """What a load of now takes for the linear of one token."""
    text = TextProgram(path)
    text.logits([3], 0)
    (pick,) = (pick for live in text.live for pick in player.picks_of(live) if pick.kernel == KERNEL)
    return pick


def file_of(path: Path) -> Path:
    text = TextProgram(path)
    found = player.choices_of(text.live[0]).path
    assert found is not None
    return found


def test_tune_keeps_what_is_faster_and_reset_removes_it(path: Path, cache: Path, times: Callable[[Fake], None]) -> None:
    before, tokens = picked(path), list(TextProgram(path).generate([3], max_new_tokens=3))
    assert before.algorithm != FAST
    times(by_algorithm)
    result = call("tune", path, "--runs", 2)
    assert result.exit_code == 0, result.output
    (kept,) = cache.glob("*.choices")
    assert kept.read_text() == f"{HEADER}\n{before.signature} -> {FAST}\n"
    n_points = len(points_of(PREFILL, CONTEXT))
    assert f"{before.algorithm} {n_points}.0 us -> {FAST} {n_points * 0.7:.1f} us (30% less): {before.signature}\n" in (
        result.stdout
    )
    assert "\n1 choices for " in result.stdout
    assert f"kept in {kept}; " in result.stdout
    assert picked(path).algorithm == FAST
    assert list(TextProgram(path).generate([3], max_new_tokens=3)) == tokens
    place, _ = measure_text(path, BenchmarkOptions(prefill=(1,), tokens=1, runs=1))
    assert str(place).endswith(f", 1 choices of {kept}")
    assert json.loads(place.to_json(Measurement("pp1", "tokens/s", (1.0,)), ""))["choices"] == 1
    assert call("tune", "--reset", path).output == f"{kept}: removed\n"
    assert picked(path).algorithm == before.algorithm
    assert call("tune", "--reset", path).output == f"{kept}: not there\n"


def test_it_measures(path: Path, cache: Path) -> None:
    """Whatever is faster here: a line for each length and position, and the rest of the cache as it was."""
    result = call("tune", path, "--runs", 2)
    assert result.exit_code == 0, result.output
    for length, position in points_of(PREFILL, CONTEXT):
        assert f"\n{length} tokens at {position}: " in result.stdout
    assert len(list(cache.glob("*.choices"))) == (0 if "\n0 choices" in result.stdout else 1)
    assert os.environ["ZEROPOINT_CACHE_DIR"] == str(cache)


def test_nothing_faster_leaves_no_file(path: Path, cache: Path, times: Callable[[Fake], None]) -> None:
    pick = picked(path)
    old = file_of(path)
    old.write_text(f"{HEADER}\n{pick.signature} -> {FAST}\n")
    times(lambda _: 1000)
    result = call("tune", path, "--runs", 2)
    assert "\n0 choices for " in result.stdout
    assert list(cache.glob("*.choices")) == []


def test_an_interruption_leaves_all_as_it_was(path: Path, cache: Path, times: Callable[[Fake], None]) -> None:
    pick = picked(path)
    old = file_of(path)
    old.write_text(f"{HEADER}\n{pick.signature} -> {SLOW}\n")
    seen = []

    def interrupted(pick: Pick) -> int:
        seen.append(pick)
        if len(seen) > 100:
            raise KeyboardInterrupt
        return by_algorithm(pick)

    times(interrupted)
    result = call("tune", path, "--runs", 2)
    assert (result.exit_code, len(seen)) == (130, 101)
    assert old.read_text() == f"{HEADER}\n{pick.signature} -> {SLOW}\n"
    assert [found.name for found in cache.iterdir() if found.suffix != ".pipelines"] == [old.name]
    assert os.environ["ZEROPOINT_CACHE_DIR"] == str(cache)


def refused(path: Path) -> str:
    result = call("tune", path)
    assert result.exit_code == 2
    return result.output.splitlines()[-1]


def test_what_cannot_be_tuned(
    path: Path, cache: Path, times: Callable[[Fake], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = write(tmp_path / "other.pte", {})
    assert "need a text model that `zeropoint export` wrote" in refused(other)
    with monkeypatch.context() as patch:
        patch.setenv("ZEROPOINT_DISABLE", "int8_dot")
        assert refused(path).endswith("tune: ZEROPOINT_DISABLE is set, and choices are for the whole device; unset it")
    with monkeypatch.context() as patch:
        patch.setenv("ZEROPOINT_CACHE_DIR", "")
        assert refused(path).endswith("tune: no cache folder to keep choices in; set ZEROPOINT_CACHE_DIR to a folder")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda where, mode: Path(where) != cache)
        assert refused(path).endswith(
            f"tune: {cache}: no permission to write; set ZEROPOINT_CACHE_DIR to another folder"
        )
    times(lambda _: None)
    assert refused(path).endswith(": no timestamps; the manifest's order stays")


def test_runs_of_a_reset(path: Path, cache: Path) -> None:
    result = call("tune", path, "--reset", "--runs", 3)
    assert result.exit_code == 2
    assert "tune: --runs with --reset, which measures nothing; leave one of them out" in result.output


def test_lengths_at_both_ends_of_what_a_signature_stands_for() -> None:
    assert points_of(6, 16) == (
        (1, 0), (1, 15), (2, 0), (2, 14), (3, 0), (3, 13), (4, 0), (4, 12), (5, 0), (5, 11), (6, 0), (6, 10),
    )  # fmt: skip
    assert points_of(1, 1) == ((1, 0),)
    assert {length for length, _ in points_of(128, 128)} == {1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128}


P, Q = (1, 0), (2, 0)


def compared(base: Mapping[tuple[int, int], tuple[float, ...]], trial: Mapping[tuple[int, int], tuple[float, ...]],
             ran: str = "new") -> bool:  # fmt: skip
    old = {("s", point): Times("old", ns) for point, ns in base.items()}
    new = {("s", point): Times(ran, ns) for point, ns in trial.items()}
    return tuning._compare("s", "new", old, new) is not None


def test_what_is_clearly_faster() -> None:
    assert compared({P: (100, 101, 102)}, {P: (90, 91, 92)})
    assert not compared({P: (100, 101, 102)}, {P: (98, 98.5, 99)}), "less than the margin"
    assert not compared({P: (80, 100, 120)}, {P: (70, 90, 110)}), "less than the spread"
    assert compared({P: (100, 100, 100, 100, 100, 100, 400)}, {P: (90, 90, 90, 90, 90, 90, 390)}), "an outlier each"
    assert not compared({P: (100, 101), Q: (100, 101)}, {P: (50, 51), Q: (110, 111)}), "slower elsewhere"
    assert compared({P: (100, 101), Q: (100, 101)}, {P: (50, 51), Q: (101, 102)}), "as fast elsewhere"
    assert not compared({P: (100, 101)}, {P: (50, 51)}, ran="old"), "its guard did not hold"


def test_other_models_choices_stay(tmp_path: Path) -> None:
    file = tmp_path / "f.choices"
    keep(file, {"a": ()}, {"a": "one"})
    keep(file, {"b": (), "c": ()}, {"b": "two"})
    assert file.read_text() == f"{HEADER}\na -> one\nb -> two\n"
    keep(file, {"a": (), "b": ()}, {"b": "three"})
    assert file.read_text() == f"{HEADER}\nb -> three\n"
    file.write_text("something else\na -> one\n")
    keep(file, {"b": ()}, {"b": "two"})
    assert file.read_text() == f"{HEADER}\nb -> two\n"
    keep(file, {"b": ()}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_too_large_loses_its_oldest_choices(tmp_path: Path) -> None:
    file = tmp_path / "f.choices"
    first = {f"{i:04}{'x' * 500}": "a" for i in range(400)}
    keep(file, first, first)
    keep(file, (second := {f"y{name}": "b" for name in first}), second)
    assert MAX_BYTES - 600 < file.stat().st_size <= MAX_BYTES
    lines = file.read_text().splitlines()
    assert lines[0] == HEADER
    assert {f"{name} -> b" for name in second} < set(lines)

"""Measures the algorithms that a device can run for the shapes of a text model, and keeps those that are faster.

All algorithms of a kernel compute the same function; which is fast depends on the device. The player tries them in the
manifest's order, but first the one that the file of choices beside its pipeline cache names for a call's signature:

    zeropoint choices 1
    rms_norm row_length=64 x=f32:buffer[8,64] weight=f32:buffer[64] y=f32:buffer[8,64] -> shared_narrow

The times are the device's, with a barrier after each call.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError, RuntimeFailure
from ..files import replace_file
from ..runtime import player
from .benchmark import WARM_UP_S
from .generation import TextProgram

HEADER = "zeropoint choices 1"
MAX_BYTES = 256 << 10  # the player reads no more
MARGIN = 0.03  # what a choice gains at least
_RESTRICTIONS = ("ZEROPOINT_DISABLE", "ZEROPOINT_LIMITS")

Point = tuple[int, int]  # tokens of a call, and the position of the first


@dataclass(frozen=True, slots=True)
class Times:
    """All calls of one signature at one point: what they ran by, and their nanoseconds together in each run."""

    algorithm: str
    ns: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ns)

    @property
    def quarters(self) -> tuple[float, float]:
        """What a quarter of the runs stay below, and what a quarter exceed."""
        if len(self.ns) == 1:
            return self.ns[0], self.ns[0]
        first, _, third = statistics.quantiles(self.ns, n=4, method="inclusive")
        return first, third


@dataclass(frozen=True, slots=True)
class Choice:
    """A signature whose calls run faster by another algorithm than the manifest's. Times: of all points together."""

    signature: str
    manifest: str
    manifest_ns: float
    best: str
    best_ns: float

    def __str__(self) -> str:
        gain = 1 - self.best_ns / self.manifest_ns
        old, new = f"{self.manifest} {self.manifest_ns / 1e3:.1f} us", f"{self.best} {self.best_ns / 1e3:.1f} us"
        return f"{old} -> {new} ({gain:.0%} less): {self.signature}"


@dataclass(frozen=True, slots=True)
class Total:
    """Device time of a call of the model, by the manifest's order and by the choices."""

    point: Point
    before_ns: float
    after_ns: float

    def __str__(self) -> str:
        length, position = self.point
        return f"{length} tokens at {position}: {self.after_ns / 1e6:.3f} ms, before {self.before_ns / 1e6:.3f}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What measuring found. shapes: by signature, the algorithms that the device can run, in the manifest's order.

    choices: what saves the most comes first.
    """

    shapes: Mapping[str, tuple[str, ...]]
    choices: tuple[Choice, ...]
    totals: tuple[Total, ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found, on which device, and the file that holds it, if there is a choice."""

    device: str
    path: Path
    found: Findings


Round = Mapping[tuple[str, Point], Times]  # by signature


def tune(path: Path, *, runs: int = 7, note: Callable[[str], object] = lambda _: None) -> Tuning:
    """Measures, and writes the device's file of choices anew: other shapes' choices stay, these shapes' are replaced.

    note: is told each step. Raises OptionError when path is no text model or there is nowhere to put the file,
    RuntimeFailure on a device that cannot tell times.
    """
    for name in _RESTRICTIONS:
        if os.environ.get(name):
            raise OptionError(f"tune: {name} is set, and choices are for the whole device; unset it")
    with player.load_flags(profile=True):
        text = TextProgram(path)
        target = _target(text)
        with tempfile.TemporaryDirectory() as folder, _cache_folder(folder):
            result = _measure(_Bench(text, Path(folder) / target.name, runs), note)
    keep(target, result.shapes, {choice.signature: choice.best for choice in result.choices})
    return Tuning(player.device_of(text.live[0]), target, result)


def reset(path: Path) -> tuple[Path, bool]:
    """Removes the choices of the device that a text model runs on. Returns the file, and whether it was there."""
    target = _target(TextProgram(path))
    was_there = target.is_file()
    target.unlink(missing_ok=True)
    return target, was_there


def keep(target: Path, measured: Mapping[str, object], choices: Mapping[str, str]) -> None:
    """Replaces the choices of what was measured in a file. Removes the file where none is left."""
    known = target.is_file() and target.stat().st_size <= MAX_BYTES
    old = target.read_text(errors="replace").splitlines() if known else []
    lines = [line for line in old[1:] if line.partition(" -> ")[0] not in measured] if old[:1] == [HEADER] else []
    lines += [f"{signature} -> {algorithm}" for signature, algorithm in sorted(choices.items())]
    while sum(len(line.encode()) + 1 for line in lines) > MAX_BYTES - len(HEADER) - 1:
        lines.pop(0)
    if not lines:
        target.unlink(missing_ok=True)
        return
    replace_file(target, lambda file: file.write("\n".join([HEADER, *lines, ""]).encode()))


def points_of(max_prefill: int, max_context: int) -> tuple[Point, ...]:
    """Lengths at both ends of what one signature stands for (65 and 128), in an empty cache and in a full one."""
    lengths, power = {1}, 2
    while power // 2 < max_prefill:
        lengths |= {power // 2 + 1, min(power, max_prefill)}
        power *= 2
    return tuple(sorted({(length, at) for length in lengths for at in (0, max_context - length) if at >= 0}))


class _Bench:
    """Runs a model with choices on trial, which it finds in a file that nobody else reads.

    shapes: as in Findings, of all signatures that were seen.
    """

    def __init__(self, text: TextProgram, file: Path, runs: int) -> None:
        self.points = points_of(text.metadata.max_prefill, text.metadata.max_context)
        self.shapes: dict[str, tuple[str, ...]] = {}
        self._text, self._file, self._runs = text, file, runs

    def measure(self, choices: Mapping[str, str], *, unlike: Round | None = None) -> Round:
        """Each point some runs, after one that makes pipelines and, at first, those that give a GPU its clock.

        unlike: points at which all run by the algorithms of this round are left out.
        """
        keep(self._file, self.shapes, choices)
        text = self._text.again()
        end = time.perf_counter() + WARM_UP_S
        found = {}
        for point in self.points:
            first = self._run(text, point)
            while time.perf_counter() < end:
                self._run(text, point)
            if unlike is not None and all(unlike[item, point].algorithm == name for item, (name, _) in first.items()):
                continue
            times = [self._run(text, point) for _ in range(self._runs)]
            for item, (name, _) in first.items():
                found[item, point] = Times(name, tuple(run[item][1] for run in times))
        return found

    def _run(self, text: TextProgram, point: Point) -> dict[str, tuple[str, float]]:
        """By signature: the algorithm, or all of them, and nanoseconds."""
        text.scores([3] * point[0], point[1])
        names, sums = dict[str, set[str]](), dict[str, float]()
        for live in text.live:
            for pick in player.picks_of(live):
                if pick.time_ns is None:
                    raise RuntimeFailure(f"tune: {player.device_of(live)}: no timestamps; the manifest's order stays")
                self.shapes[pick.signature] = pick.candidates
                names.setdefault(pick.signature, set()).add(pick.algorithm)
                sums[pick.signature] = sums.get(pick.signature, 0.0) + max(pick.time_ns, 1)
        return {item: (", ".join(sorted(found)), sums[item]) for item, found in names.items()}


def _measure(bench: _Bench, note: Callable[[str], object]) -> Findings:
    note(f"{len(bench.points)} lengths and positions in the manifest's order")
    base = bench.measure({})
    shapes = bench.shapes
    trials = []
    most = max(map(len, shapes.values()), default=0)
    if most < 2:
        return Findings(shapes, (), tuple(_total(point, base, base, set()) for point in bench.points))
    for place in range(most):
        note(f"other algorithms, {place + 1} of {most}")
        wanted = {item: names[place] for item, names in shapes.items() if len(names) > max(place, 1)}
        trials.append((wanted, bench.measure(wanted, unlike=base)))
    faster = {item: best for item in shapes if (best := _best(item, base, trials)) is not None}
    note(f"{len(faster)} choices and the manifest's order once more")
    before, after = bench.measure({}), bench.measure(faster)  # the fastest of many is so by luck, too
    choices = [found for item, name in faster.items() if (found := _compare(item, name, before, after)) is not None]
    kept = {choice.signature for choice in choices}
    choices.sort(key=lambda choice: choice.best_ns - choice.manifest_ns)
    return Findings(shapes, tuple(choices), tuple(_total(point, before, after, kept) for point in bench.points))


def _target(text: TextProgram) -> Path:
    if not text.live:
        raise OptionError("tune: the model has no delegate of ours; there is nothing to choose")
    path = player.choices_of(text.live[0]).path
    if path is None:
        raise OptionError("tune: no cache folder to keep choices in; set ZEROPOINT_CACHE_DIR to a folder")
    if not os.access(path.parent, os.W_OK):
        raise OptionError(f"tune: {path.parent}: no permission to write; set ZEROPOINT_CACHE_DIR to another folder")
    return path


def _best(item: str, base: Round, trials: Sequence[tuple[Mapping[str, str], Round]]) -> str | None:
    """The algorithm that is faster than the manifest's, and the fastest of those."""
    tried = [_compare(item, wanted[item], base, found) for wanted, found in trials if item in wanted]
    faster = [choice for choice in tried if choice is not None]
    return min(faster, key=lambda choice: choice.best_ns - choice.manifest_ns).best if faster else None


def _compare(item: str, algorithm: str, base: Round, trial: Round) -> Choice | None:
    """None unless it is faster: over all points where it ran in another's place by MARGIN, and three quarters of its
    runs faster than three quarters of the other's; and at none of them as clearly slower."""
    here = [(base[key], found) for key, found in trial.items() if key[0] == item and found.algorithm == algorithm]
    pairs = [(old, new) for old, new in here if old.algorithm != algorithm]
    if not pairs:
        return None
    before, after = sum(old.median for old, _ in pairs), sum(new.median for _, new in pairs)
    apart = sum(new.quarters[1] for _, new in pairs) < sum(old.quarters[0] for old, _ in pairs)
    slower = any(new.quarters[0] > old.quarters[1] and new.median > (1 + MARGIN) * old.median for old, new in pairs)
    if slower or not apart or after > (1 - MARGIN) * before:
        return None
    return Choice(item, ", ".join(sorted({old.algorithm for old, _ in pairs})), before, algorithm, after)


def _total(point: Point, base: Round, chosen: Round, kept: set[str]) -> Total:
    """What was not kept counts as it is by the manifest's order."""
    here = [item for item, at in base if at == point]
    before = sum(base[item, point].median for item in here)
    after = sum((chosen if item in kept else base)[item, point].median for item in here)
    return Total(point, before, after)


@contextmanager
def _cache_folder(folder: str) -> Iterator[None]:
    """Programs that are loaded inside find their caches there."""
    before = os.environ.get("ZEROPOINT_CACHE_DIR")
    os.environ["ZEROPOINT_CACHE_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["ZEROPOINT_CACHE_DIR"]
        else:
            os.environ["ZEROPOINT_CACHE_DIR"] = before

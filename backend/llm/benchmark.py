"""How fast a text program is: prompts, decoding at depths of its cache, loading, and where the device's time goes.

Wall time through executorch.runtime, as llama-bench counts it: a prompt in calls of up to max_prefill tokens, the
logits of its last token (or the largest, as the program has it) on the host; decoding one token a call.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from os import environ
from pathlib import Path

from ..errors import OptionError, RuntimeFailure
from ..runtime import player
from ..runtime.devices import devices
from ..runtime.player import Choices
from ..version import __version__
from .generation import TextProgram

WARM_UP_S = 2.0  # until a GPU runs at its full clock


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOptions:
    """What is measured: prompts of these lengths, `tokens` decoded after each depth, each `runs` times."""

    prefill: Sequence[int] = (128,)
    depths: Sequence[int] = (0,)
    tokens: int = 32
    runs: int = 3


@dataclass(frozen=True, slots=True)
class Measurement:
    """test: `pp128`, `tg32`, `tg32@d900`, `load`, `first call`. unit: tokens/s, or s. values: one for each run."""

    test: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        spread = f"{min(self.values):.2f} to {max(self.values):.2f} in {len(self.values)}"
        return f"{self.test:32} {self.median:12.2f} {self.unit:9} {spread}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where it was measured, and with which choices of `zeropoint tune`."""

    device: str
    driver: str
    model: str
    choices: Choices

    def __str__(self) -> str:
        choices = f", {self.choices.count} choices of {self.choices.path}" if self.choices.count else ""
        return f"{self.model} on {self.device} ({self.driver}){choices}"

    def to_json(self, found: Measurement, command: str) -> str:
        """One line of a results file."""
        return json.dumps(
            {
                "date": date.today().isoformat(),
                "device": self.device,
                "driver": self.driver,
                "version": __version__,
                "command": command,
                "backend": "zeropoint",
                "model": self.model,
                "choices": self.choices.count,
                "test": found.test,
                "unit": found.unit,
                "median": found.median,
                "runs": list(found.values),
            }
        )


def measure_text(path: Path, options: BenchmarkOptions) -> tuple[Place, Iterator[Measurement]]:
    """The speed of prompts and of decoding, each as soon as it is known. Raises OptionError on a cache too short."""
    text = TextProgram(path)
    _check(text, options)
    name = next((player.device_of(live) for live in text.live), "none")
    choices = next((player.choices_of(live) for live in text.live), Choices(None, 0))
    driver = next((device.driver for device in devices() if device.name == name), "")
    return Place(name, driver, path.stem, choices), _measure(text, options)


def measure_loads(path: Path) -> list[Measurement]:
    """Seconds to load and of the first call of one token, with an empty pipeline cache and then with a filled one.

    Each in a process of its own. The file is in the system's cache already where it was read before.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for state in ("empty", "filled"):
            command = [sys.executable, "-m", __name__, str(path)]
            env = {**environ, "ZEROPOINT_CACHE_DIR": folder}
            run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
            if run.returncode != 0:
                last = (run.stderr.strip() or f"exit code {run.returncode}").splitlines()[-1]
                raise RuntimeFailure(f"bench: loading {path} in a process of its own: {last}")
            times = json.loads(run.stdout.splitlines()[-1])
            found += [
                Measurement(f"{what}, {state} pipeline cache", "s", (times[what],)) for what in ("load", "first call")
            ]
    return found


def _check(text: TextProgram, options: BenchmarkOptions) -> None:
    room = text.metadata.max_context
    for length in options.prefill:
        if not 1 <= length <= room:
            raise OptionError(f"bench: prefill {length}; the cache holds 1 to {room} tokens")
    for depth in options.depths:
        if not 0 <= depth <= room - options.tokens:
            raise OptionError(
                f"bench: depth {depth} and {options.tokens} tokens; the cache holds {room}; take less, or export with "
                "a larger --max-context"
            )


def _measure(text: TextProgram, options: BenchmarkOptions) -> Iterator[Measurement]:
    for length in options.prefill:
        prompt = _tokens(text, length)
        yield _rate(f"pp{length}", length, options.runs, partial(text.read, prompt))
    for depth in options.depths:
        if depth:
            text.read(_tokens(text, depth))
        name = f"tg{options.tokens}" + (f"@d{depth}" if depth else "")
        yield _rate(name, options.tokens, options.runs, partial(_decode, text, depth, options.tokens))


def _rate(test: str, n_tokens: int, runs: int, work: Callable[[], object]) -> Measurement:
    """Tokens a second, after one run and, where it was short, some more that nobody times."""
    end = time.perf_counter() + WARM_UP_S
    work()
    while time.perf_counter() < end:
        work()
    values = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        values.append(n_tokens / (time.perf_counter() - started))
    return Measurement(test, "tokens/s", tuple(values))


def _decode(text: TextProgram, depth: int, n_tokens: int) -> None:
    for position in range(depth, depth + n_tokens):
        text.scores(_tokens(text, 1), position)


def _tokens(text: TextProgram, count: int) -> list[int]:
    return [(3 + 7 * index) % text.metadata.vocab_size for index in range(count)]


def _time_load(path: Path) -> dict[str, float]:
    started = time.perf_counter()
    text = TextProgram(path)
    loaded = time.perf_counter()
    text.scores(_tokens(text, 1), 0)
    return {"load": loaded - started, "first call": time.perf_counter() - loaded}


if __name__ == "__main__":
    print(json.dumps(_time_load(Path(sys.argv[1]))))

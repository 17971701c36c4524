"""RADV's compiler for GPUs that are not here: Mesa's null device, and pipelines made by the player's own code."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .cache import Cache
from .jobs import Job

_SECONDS = 600  # of one pipeline, at most
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Family:
    """name: as RADV_FORCE_FAMILY takes it. gpu: one that people have. driver: its file for the loader."""

    name: str
    gpu: str
    driver: str


# What differs to a compiler: instruction sets from GCN 4 to RDNA 4, and the compiler itself in two versions of Mesa.
FAMILIES = (
    Family("polaris10", "Radeon RX 580", "installed"),
    Family("vega10", "Radeon RX Vega 64", "installed"),
    Family("navi10", "Radeon RX 5700", "installed"),
    Family("navi21", "Radeon RX 6800", "installed"),
    Family("gfx1100", "Radeon RX 7900", "installed"),
    Family("vangogh", "Steam Deck", "mesa-25"),
    Family("navi31", "Radeon RX 7900", "mesa-25"),
    Family("gfx1201", "Radeon RX 9070", "mesa-25"),
)
CPUS_WITH = "navi21"  # the one that compiles what guards give to software devices alone


@dataclass(frozen=True, slots=True)
class Result:
    """driver: its name and version. answers: of each job, as pipelines.cpp prints them."""

    driver: str
    answers: tuple[str, ...]


class Compiler:
    """pipelines: the program of pipelines.cpp. icds: the drivers' files for the loader, by Family.driver."""

    def __init__(self, pipelines: Path, icds: dict[str, Path], cache: Path) -> None:
        self._pipelines = pipelines
        self._icds = icds
        self._cache = cache

    def compile(self, family: Family, jobs: Sequence[Job], progress: Callable[[int], None]) -> Result:
        """Answers in the order of jobs; `progress` gets how many there are."""
        with _Process(self._pipelines, self._environment(family)) as process:
            device, driver = process.device, process.driver
        cache = Cache(self._cache / f"{family.name}.txt")
        keys = {job.digest: f"{device}, {driver} {job.digest}" for job in jobs}
        answers = {digest: answer for digest, key in keys.items() if (answer := cache.get(key)) is not None}
        missing = [job for job in {job.digest: job for job in jobs}.values() if job.digest not in answers]

        def work(part: Sequence[Job]) -> None:
            with _Process(self._pipelines, self._environment(family)) as process:
                for job in part:
                    answers[job.digest] = process.ask(job.line)
                    if not answers[job.digest].startswith("failed"):  # or it may just have taken too long
                        cache.put(keys[job.digest], answers[job.digest])
                    progress(1)

        progress(len(answers))
        with ThreadPoolExecutor(_WORKERS) as pool:
            list(pool.map(work, [missing[i::_WORKERS] for i in range(_WORKERS)]))
        return Result(driver, tuple(answers[job.digest] for job in jobs))

    def _environment(self, family: Family) -> dict[str, str]:
        icd = str(self._icds[family.driver])
        own = {
            "RADV_FORCE_FAMILY": family.name,
            "VK_DRIVER_FILES": icd,  # the loader's name of it, and the one before
            "VK_ICD_FILENAMES": icd,
            "MESA_SHADER_CACHE_DISABLE": "true",
            "ZEROPOINT_CACHE_DIR": "",
            "ZEROPOINT_DEVICE": "",
            "ZEROPOINT_VALIDATION": "0",
        }
        unset = ("ZEROPOINT_DISABLE", "ZEROPOINT_LIMITS", "RADV_DEBUG", "RADV_PERFTEST")
        return {**{name: value for name, value in os.environ.items() if name not in unset}, **own}


class _Process:
    """One run of pipelines.cpp; started again when a compiler ends it."""

    def __init__(self, program: Path, environment: dict[str, str]) -> None:
        self._program = program
        self._environment = environment
        self._start()

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [self._program], env=self._environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.device, _, self.driver = self._process.stdout.readline().rstrip("\n").partition("\t")
        if not self.driver:
            done = subprocess.run([self._program], env=self._environment, capture_output=True, text=True, input="")
            raise RuntimeError(f"{self._program.name}: {done.stderr.strip()}")

    def ask(self, line: str) -> str:
        """The answer, or `failed` and how the process ended, in which case a new one stands ready."""
        timer = threading.Timer(_SECONDS, self._process.kill)
        timer.start()
        try:
            print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline().rstrip("\n")
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        if answer:
            return answer
        status = self._process.wait()
        self._start()
        return f"failed\tthe compiler ended its process (status {status})"

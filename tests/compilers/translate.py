"""Every module through spirv-val, and through SPIRV-Cross to the languages that Vulkan is translated to elsewhere."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backend.kernels.toolchain import TARGET, run_tool

from .cache import Cache
from .jobs import Job

_WORKERS = 2
# SM 6.2 is the first that has 16-bit buffers.
TRANSLATIONS = {
    "MSL 2.3": ("--msl", "--msl-version", "20300"),
    "HLSL SM 6.2": ("--hlsl", "--shader-model", "62", "--hlsl-enable-16bit-types"),
}
VALIDATION = "SPIR-V for Vulkan 1.1"


def targets(spirv_val: str, spirv_cross: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each target is asked with, before the file. spirv_cross: the program and what starts it."""
    translations = {name: (*spirv_cross, *options) for name, options in TRANSLATIONS.items()}
    return {VALIDATION: (spirv_val, "--target-env", TARGET), **translations}


def translate(
    modules: Sequence[bytes], commands: Mapping[str, Sequence[str]], cache: Path, progress: Callable[[int], None]
) -> dict[str, tuple[str, ...]]:
    """Of each target and module why it cannot be translated, or ""."""
    answers = Cache(cache)
    with tempfile.TemporaryDirectory(prefix="zeropoint-compilers-") as scratch, ThreadPoolExecutor(_WORKERS) as pool:

        def work(item: tuple[int, bytes]) -> list[str]:
            index, spirv = item
            path = Path(scratch) / f"{index}.spv"
            path.write_bytes(spirv)
            found = [_answer(path, spirv, command, answers) for command in commands.values()]
            path.unlink()
            progress(1)
            return found

        rows = list(pool.map(work, enumerate(modules)))
    return {target: tuple(row[i] for row in rows) for i, target in enumerate(commands)}


def _answer(path: Path, spirv: bytes, command: Sequence[str], cache: Cache) -> str:
    key = hashlib.sha256(repr((command, _identity(command))).encode() + spirv).hexdigest()[:24]
    if (known := cache.get(key)) is not None:
        return known
    done = run_tool([*command, str(path)])
    text = " ".join((done.stderr + done.stdout).replace(str(path), "").split()) or f"status {done.returncode}"
    answer = text.removeprefix("SPIRV-Cross threw an exception: ") if done.returncode else ""
    cache.put(key, answer)
    return answer


def _identity(command: Sequence[str]) -> list[tuple[int, int]]:
    """Of the programs among the words: sizes and times."""
    stats = [Path(word).stat() for word in command if word.startswith("/") and Path(word).is_file()]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def untranslated(jobs: Sequence[Job], answers: Mapping[str, Sequence[str]]) -> str:
    """A line for each target, algorithm and reason, with how many variants it holds back."""
    variants = {(job.name, job.index): job for job in jobs}
    found = Counter(
        (target, job.name, reasons[job.module])
        for target, reasons in answers.items()
        for job in variants.values()
        if reasons[job.module]
    )
    return "".join(f"{target}: {name}: {n} variants: {reason}\n" for (target, name, reason), n in found.items())

"""From variants to checked, optimized SPIR-V: glslang, spirv-opt, spirv-val, in parallel and cached by content."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import ShaderError
from . import spirv
from .cache import CompiledVariant, Job, ShaderCache
from .check import check_variant
from .glslang_library import load_library, preamble_text
from .manifest import TURNS_BINDING
from .prelude import Prelude, prelude
from .toolchain import TARGET, Toolchain, run_tool

# Inlining, scalars for arrays, dead code. Not -O: its folding breaks 8-bit constants (spirv-val: "Cannot form
# constants of 8- or 16-bit types") and touches float arithmetic, and its unrolling triples the size; drivers do
# both. NVIDIA's unrolls less than [[unroll]] asks: an algorithm with arrays in such loops sets `unroll`, which makes
# their indices literals and, after that, the arrays scalars.
_PASSES = (
    "wrap-opkill",
    "eliminate-dead-branches",
    "merge-return",
    "inline-entry-points-exhaustive",
    "eliminate-dead-functions",
    "private-to-local",
    "eliminate-local-single-block",
    "eliminate-local-single-store",
    "eliminate-dead-code-aggressive",
    "scalar-replacement=64",
    "convert-local-access-chains",
    "eliminate-local-single-block",
    "eliminate-local-single-store",
    "eliminate-dead-code-aggressive",
    "ssa-rewrite",
    "eliminate-dead-code-aggressive",
    "redundancy-elimination",
    "combine-access-chains",
    "vector-dce",
    "eliminate-dead-inserts",
    "eliminate-dead-branches",
    "copy-propagate-arrays",
    "reduce-load-size",
    "eliminate-dead-code-aggressive",
    "merge-blocks",
    "canonicalize-ids",  # so that like modules have like bytes, and the library compresses
    "strip-debug",
)


def compile_variants(
    jobs: Sequence[Job],
    toolchain: Toolchain,
    *,
    cache_dir: Path,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[CompiledVariant, ...]:
    """Compiles in the order of `jobs`; `progress` gets the number finished. Raises the first job's ShaderError."""
    cache = ShaderCache(cache_dir, toolchain.identity)
    results: list[CompiledVariant] = []
    with tempfile.TemporaryDirectory(prefix="zeropoint-shaders-") as scratch:
        pool = ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1)
        try:
            for result in pool.map(lambda job: _cached(job, toolchain, cache, Path(scratch)), jobs):
                results.append(result)
                progress(len(results))
        finally:
            pool.shutdown(cancel_futures=True)
    return tuple(results)


def _cached(job: Job, toolchain: Toolchain, cache: ShaderCache, scratch: Path) -> CompiledVariant:
    name = cache.name(job)
    if (found := cache.read(name, job.key)) is not None:
        return found
    result = _compile(job, toolchain, scratch / f"{name}-{threading.get_ident()}")
    cache.write(name, result)
    return result


def _compile(job: Job, toolchain: Toolchain, scratch: Path) -> CompiledVariant:
    before = prelude(job.manifest, job.algorithm, job.key)
    compiled, optimized = scratch.with_suffix(".spv"), scratch.with_suffix(".opt.spv")
    _glslang(job, before, toolchain, compiled)
    passes = [f"--{name}" for name in _PASSES]
    if job.algorithm.unroll:
        after = passes.index("--ssa-rewrite") + 1
        passes[after:after] = ["--loop-unroll", "--ccp", "--scalar-replacement=64", "--ssa-rewrite"]
    _run(job, [toolchain.spirv_opt, f"--target-env={TARGET}", *passes, str(compiled), "-o", str(optimized)])
    _run(job, [toolchain.spirv_val, "--target-env", TARGET, str(optimized)])
    data = optimized.read_bytes()
    found = check_variant(
        job.manifest,
        job.algorithm,
        job.key,
        compiled=spirv.parse(compiled.read_bytes()),
        optimized=spirv.parse(data),
    )
    compiled.unlink()
    optimized.unlink()
    return CompiledVariant(
        key=job.key,
        spirv=data,
        bindings=tuple(binding.binding for binding in found.bindings if binding.binding != TURNS_BINDING),
        capabilities=found.capabilities,
        local_size=found.local_size,
        push_bytes=4 * len(found.pushes),
        shared_bytes=found.shared_bytes,
    )


def _glslang(job: Job, before: Prelude, toolchain: Toolchain, out: Path) -> None:
    source, include = job.algorithm.source, job.manifest.path.parent / "lib"
    library = load_library(Path(toolchain.glslang).parent.parent / "lib")
    data = library and library.compile(source, preamble_text(before.macros, before.extensions), include)
    if data:
        out.write_bytes(data)
        return
    command = [toolchain.glslang, "--quiet", "--target-env", TARGET, "-S", "comp", f"-I{include}"]
    command += [f"-D{name}={value}" for name, value in before.macros]
    command += [f"-P#extension {name} : require" for name in before.extensions]
    _run(job, [*command, "-o", str(out), str(source)])


def _run(job: Job, command: Sequence[str]) -> None:
    done = run_tool(command)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()
        raise ShaderError(
            f"{job.algorithm.source.name}: {job.key}: exit {done.returncode}\n{output}\ncommand: {_quoted(command)}"
        )


def _quoted(command: Sequence[str]) -> str:
    return " ".join(f"'{word}'" if " " in word else word for word in command)

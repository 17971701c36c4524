"""The whole build: manifests -> variants -> SPIR-V -> one library file. And its listing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ShaderError
from .cache import CompiledVariant, Job, default_cache_dir
from .compile import compile_variants
from .keys import slot_choices, variant_keys
from .library import LibrarySummary, read_library, write_library
from .manifest import Manifest
from .manifest_reader import load_manifests
from .toolchain import find_toolchain


def build_library(
    shaders: Path,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bytes:
    """Builds every kernel under `shaders`. `progress` gets (variants finished, variants in all).

    Raises ManifestError or ShaderError; see section 3 of docs/design.md for what is refused.
    """
    manifests = load_manifests(shaders)
    jobs = plan(manifests)
    compiled = compile_variants(
        jobs,
        find_toolchain(),
        cache_dir=cache_dir or default_cache_dir(shaders),
        workers=workers,
        progress=lambda done: progress(done, len(jobs)),
    )
    check_local_sizes(compiled)
    return write_library(manifests, {variant.key: variant for variant in compiled})


def plan(manifests: tuple[Manifest, ...]) -> tuple[Job, ...]:
    """Every variant of every algorithm, in picking order."""
    jobs: list[Job] = []
    for manifest in manifests:
        choices = slot_choices(manifest)
        for algorithm in manifest.algorithms:
            jobs += (Job(manifest, algorithm, key) for key in variant_keys(manifest, algorithm, choices))
    return tuple(jobs)


def check_local_sizes(variants: tuple[CompiledVariant, ...]) -> None:
    """An algorithm's variants share one local size: the player checks it once, for the algorithm."""
    first: dict[tuple[str, str], CompiledVariant] = {}
    for variant in variants:
        other = first.setdefault((variant.key.kernel, variant.key.algorithm), variant)
        if variant.local_size != other.local_size:
            raise ShaderError(
                f"{variant.key}: local size {variant.local_size}; {other.key} has {other.local_size}; "
                "an algorithm has one, make two algorithms"
            )


def list_kernels(library: bytes) -> str:
    """Every kernel, algorithm and variant of a built library as text, for `zeropoint kernels`."""
    return _listing(read_library(library))


def _listing(summary: LibrarySummary) -> str:
    lines: list[str] = []
    kernel = algorithm = ""
    for key in summary.variants:
        if key.kernel != kernel:
            kernel, algorithm = key.kernel, ""
            lines.append(kernel)
        if key.algorithm != algorithm:
            algorithm = key.algorithm
            count = sum((other.kernel, other.algorithm) == (kernel, algorithm) for other in summary.variants)
            lines.append(f"  {algorithm}: {count} variants of {summary.sources[kernel, algorithm]}")
        lines.append(f"    {key}")
    lines.append(
        f"{len(summary.variants)} variants, {summary.n_modules} modules, {summary.spirv_bytes} bytes of SPIR-V; "
        f"device facts: {', '.join(summary.facts) or 'none'}"
    )
    return "\n".join(lines)

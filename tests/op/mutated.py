"""Kernel libraries in which a shader reads its zero point as another dtype than its key says.

The build refuses to make one (tests/unit/kernels), so the wrong variant is compiled under its own honest key and then
filed under the key it does not serve: what a backend without that check would ship.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from tests.op.chain import Chain
from zeropoint.kernels.build import plan
from zeropoint.kernels.cache import Job, default_cache_dir
from zeropoint.kernels.compile import compile_variants
from zeropoint.kernels.dtypes import DType, Storage
from zeropoint.kernels.keys import VariantKey
from zeropoint.kernels.library import write_library
from zeropoint.kernels.manifest import Manifest
from zeropoint.kernels.manifest_reader import load_manifests
from zeropoint.kernels.toolchain import find_toolchain

SHADERS = Path(__file__).parents[2] / "shaders"


def library(chain: Chain, *, kernel: str, algorithm: str, read_as: str | None) -> bytes:
    """The kernels of one chain. The zero point of `kernel`/`algorithm` is taken for dtype `read_as` (None: honest)."""
    manifests, planned = every_job()
    jobs = [job for job in planned if serves(job.key, chain)]
    mutated = [misread(job, read_as) if read_as and is_target(job, kernel, algorithm) else job for job in jobs]
    assert read_as is None or mutated != jobs
    compiled = compile_variants(mutated, find_toolchain(), cache_dir=default_cache_dir(SHADERS))
    variants = {job.key: replace(variant, key=job.key) for job, variant in zip(jobs, compiled, strict=True)}
    served = {(job.key.kernel, job.key.algorithm) for job in jobs}
    narrowed = [
        replace(
            manifest, algorithms=tuple(item for item in manifest.algorithms if (manifest.name, item.name) in served)
        )
        for manifest in manifests
        if manifest.name in {name for name, _ in served}
    ]
    return write_library(narrowed, variants)


@cache
def every_job() -> tuple[tuple[Manifest, ...], tuple[Job, ...]]:
    manifests = load_manifests(SHADERS)
    return manifests, plan(manifests)


def is_target(job: Job, kernel: str, algorithm: str) -> bool:
    return (job.key.kernel, job.key.algorithm) == (kernel, algorithm)


def misread(job: Job, dtype: str) -> Job:
    slots = tuple(replace(slot, dtype=DType(dtype)) if slot.slot == "zp" else slot for slot in job.key.slots)
    return replace(job, key=replace(job.key, slots=slots))


def serves(key: VariantKey, chain: Chain) -> bool:
    """Whether a variant can be bound by the chain's calls."""
    quantization = ("choose_qparams_per_row", "quantize_and_pack", "quantize_rows")
    if key.kernel not in (*quantization, "linear_dq8ca"):
        return False
    wanted = {
        "x": chain.compute,
        "weight": chain.compute,
        "up": chain.compute,
        "y": chain.compute,
        "zp": chain.zp,
        "w": f"i{chain.bits}",
        "w_scale": chain.w_scale,
        "w_sum": "i32" if chain.sums else "none",
        "bias": "f32" if chain.bias else "none",
        "residual": "none",
        "w_zp": "f32" if chain.terms else "i32" if chain.asymmetric else "none",
        "group_sums": "i32" if chain.asymmetric or chain.terms else "none",
    }
    return all(
        slot.dtype is DType(wanted.get(slot.slot, slot.dtype.value))
        and (slot.slot not in ("scale", "zp") or slot.storage is Storage(chain.storage))
        for slot in key.slots
    )

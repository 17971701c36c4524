"""Every variant of a kernel library with the specialization constants that calls give it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from backend.kernels.expr import OpCode, evaluate
from backend.kernels.library import read_library, read_spirv
from backend.kernels.manifest import Algorithm, Manifest, Spec
from backend.serialization._generated import library_generated as fb

# Specialization constants of a small call and of a large one: SmolLM2-135M, one row, rank 1; a model eight times as
# wide, as many rows as an algorithm takes at once, heads of 256 or as many as it takes, each option on.
SMALL = {
    "LEVELS": 1, "ROWS": 1, "QUADS": 16, "HEAD_DIM": 64, "MASKED": 0, "NORMED": 0, "LOGARITHM": 0, "OP": 0,
    "STEP": 32, "GROUP_SIZE": 32, "GROUP_PADDED": 32, "ROUNDING": 0, "MAPPING": 0, "PROLOGUE": 0, "GATED": 0,
    "ROW_LENGTH": 576, "PACKED_LENGTH": 576, "STEPS": 18, "X_OFFSET": 0, "TILES": 1, "A_ALONG_K": 1, "B_ALONG_K": 0,
    "SUBGROUP": 64,
}  # fmt: skip
LARGE = {
    "LEVELS": 4, "ROWS": 8, "QUADS": 64, "HEAD_DIM": 256, "MASKED": 1, "NORMED": 1, "LOGARITHM": 1, "OP": 1,
    "STEP": 128, "GROUP_SIZE": 128, "GROUP_PADDED": 128, "ROUNDING": 1, "MAPPING": 3, "PROLOGUE": 2, "GATED": 1,
    "ROW_LENGTH": 8192, "PACKED_LENGTH": 8192, "STEPS": 64, "X_OFFSET": 0, "TILES": 2, "A_ALONG_K": 0, "B_ALONG_K": 1,
    "SUBGROUP": 32,
}  # fmt: skip
_LIMITS = {"ROWS": "MAX_ROWS", "QUADS": "MAX_QUADS"}  # the manifest's constant that says how many an algorithm takes


@dataclass(frozen=True, slots=True)
class Job:
    """One pipeline. index: of the variant in its algorithm. digest: of all that a compiler sees of it."""

    kernel: str
    algorithm: str
    index: int
    specs: tuple[int, ...]
    key: str
    module: int
    digest: str = field(compare=False)

    @property
    def name(self) -> str:
        return f"{self.kernel}/{self.algorithm}"

    @property
    def line(self) -> str:
        return " ".join(map(str, (self.kernel, self.algorithm, self.index, *self.specs)))


def is_for_cpus(algorithm: Algorithm) -> bool:
    """Its guard asks for a software device."""
    return algorithm.when is not None and re.search(r"(?<!not )device\.is_cpu", algorithm.when.text) is not None


def calls(manifest: Manifest, algorithm: Algorithm) -> tuple[tuple[int, ...], ...]:
    """Values of the specialization constants: the large call, the small one, and the large one with each operator."""
    large, small = (
        tuple(_value(spec, call, manifest, algorithm) for spec in algorithm.specs) for call in (LARGE, SMALL)
    )
    operators = [
        (*large[:i], number, *large[i + 1 :])
        for i, spec in enumerate(algorithm.specs)
        for number in range(_number_of_operators(spec, manifest))
    ]
    return tuple(dict.fromkeys([large, small, *operators]))


def _value(spec: Spec, call: dict[str, int], manifest: Manifest, algorithm: Algorithm) -> int:
    if all(op.code is OpCode.PUSH for op in spec.value.ops):
        return evaluate(spec.value, {})
    if spec.name not in call:
        where = f"{manifest.path.name}: {algorithm.name}: specialization constant {spec.name}"
        raise KeyError(f"{where}: tests/compilers/jobs.py has no value of it; add a small and a large one")
    constants = dict(chain(manifest.constants, algorithm.defines))
    return min(call[spec.name], constants.get(_LIMITS.get(spec.name, ""), call[spec.name]))


def _number_of_operators(spec: Spec, manifest: Manifest) -> int:
    chosen = {attr.name: attr.operators for attr in manifest.attrs}
    members = {item.name: len(item.members) for item in manifest.operators}
    return max((members.get(chosen.get(op.name, ""), 0) for op in spec.value.ops if op.code is OpCode.ATTR), default=0)


def modules(library: bytes) -> list[bytes]:
    """The SPIR-V of a kernel library, as the player decodes it."""
    root = fb.Library.GetRootAs(library)
    return [read_spirv(root, i) for i in range(root.ModulesLength())]


def plan(manifests: Sequence[Manifest], library: bytes, spirv: Sequence[bytes]) -> tuple[Job, ...]:
    """The large call of every variant, and the others of each algorithm's first and last variant."""
    algorithms = {(manifest.name, one.name): (manifest, one) for manifest in manifests for one in manifest.algorithms}
    keys = iter(read_library(library).variants)
    jobs = []
    for kernel, algorithm in _algorithms(fb.Library.GetRootAs(library)):
        name = (kernel.Name().decode(), algorithm.Name().decode())
        large, *others = calls(*algorithms[name])
        last = algorithm.VariantsLength() - 1
        for index in range(last + 1):
            variant, key = algorithm.Variants(index), str(next(keys))
            for specs in (large, *(others if index in (0, last) else ())):
                digest = _digest(variant, specs, spirv[variant.Module()])
                jobs.append(Job(*name, index, specs, key, variant.Module(), digest))
    return tuple(jobs)


def _algorithms(root: fb.Library) -> Iterator[tuple[fb.Kernel, fb.Algorithm]]:
    for kernel in (root.Kernels(i) for i in range(root.KernelsLength())):
        for i in range(kernel.AlgorithmsLength()):
            yield kernel, kernel.Algorithms(i)


def _digest(variant: fb.Variant, specs: tuple[int, ...], spirv: bytes) -> str:
    bound = [
        (variant.Bindings(i).Binding(), variant.Storages(variant.Bindings(i).Slot()))
        for i in range(variant.BindingsLength())
    ]
    return hashlib.sha256(repr((bound, variant.PushBytes(), specs)).encode() + spirv).hexdigest()[:24]

"""The repository's own shaders: nothing is left over, and every one of them has variants that the library holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from zeropoint.errors import ShaderError
from zeropoint.kernels.build import plan
from zeropoint.kernels.cache import Job
from zeropoint.kernels.compile import compile_variants
from zeropoint.kernels.dtypes import DType, Storage
from zeropoint.kernels.keys import slot_choices
from zeropoint.kernels.manifest import Manifest
from zeropoint.kernels.manifest_reader import load_manifests
from zeropoint.kernels.toolchain import find_toolchain

from .tiny import replaced

SHADERS = Path(__file__).parents[3] / "shaders"
MANIFESTS = load_manifests(SHADERS)
QPARAM_SLOTS = {"zp": {DType.I8, DType.I32, DType.F16, DType.F32}}


def test_no_orphans() -> None:
    used = {algorithm.source for manifest in MANIFESTS for algorithm in manifest.algorithms}
    assert used == set(SHADERS.glob("*.comp"))
    text = "".join(path.read_text() for path in [*SHADERS.glob("*.comp"), *SHADERS.glob("lib/*.glsl")])
    included = set(re.findall(r'#include "([^"]+)"', text))
    assert included == {path.name for path in SHADERS.glob("lib/*.glsl")}


def test_keys_are_unique() -> None:
    keys = [job.key for job in plan(MANIFESTS)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest.name)
def test_every_zero_point_exists_in_every_storage(manifest: Manifest) -> None:
    """Zero points: each dtype, in buffers and in images, beside every other choice of the kernel.

    But for linears without sums of weights: those exist for the zero points that most programs have.
    """
    for index, slot in enumerate(manifest.slots):
        if slot.name not in QPARAM_SLOTS:
            continue
        assert set(slot.dtypes) == QPARAM_SLOTS[slot.name]
        every = slot_choices(manifest)
        rows = [row for row in every if not any(key.slot == "w_sum" and key.dtype is DType.NONE for key in row)]
        others = [row for row in every if row not in rows]
        rest = {row[:index] + row[index + 1 :] for row in rows}
        if others:
            found = {(row[index].dtype, row[index].storage) for row in others}
            assert found == {(DType.I8, Storage.BUFFER)}
        assert {row[index].storage for row in rows} == {Storage.BUFFER, Storage.IMAGE}
        assert len(rows) == len(rest) * len(slot.dtypes)
        assert slot.view is None


GLSL = {"i8": "int8_t", "i32": "int", "f16": "float16_t", "f32": "float"}
FORMATS = {"i8": "rgba8i", "i32": "rgba32i", "f16": "rgba16f", "f32": "rgba32f"}
# To the dtype of the same kind and another size: GLSL itself has nothing to say against these.
LIES = {"i8": "i32", "i32": "i8", "f16": "f32", "f32": "f16"}
WORDS = ("i8", "f16")  # read as words in buffers; where those are integers with a sign, GLSL says nothing
STORAGE_EXTENSIONS = "".join(f"#extension GL_EXT_shader_{bits}bit_storage : require\n" for bits in (8, 16))
PUTS_PARTS = [manifest.name for manifest in MANIFESTS for slot in manifest.slots if slot.name == "zp" and slot.atomic]
WITH_ZERO_POINT = [
    (manifest.name, algorithm.name)
    for manifest in MANIFESTS
    for algorithm in manifest.algorithms
    if "zp" in [slot.name for slot in manifest.slots]
]


# Another algorithm stands in for these.
USUAL = (("i8", "buffer"), ("f32", "buffer"))
USUAL_ZERO_POINTS = dict.fromkeys(("gemv_pair", "gemv_rows", "coopmat_large", "coopmat_medium", "coopmat_tiny"), USUAL)
USUAL_ZERO_POINTS["coopmat_wide"] = USUAL[:1]


@pytest.fixture(scope="module", params=list(LIES))
def lying_tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[Job, ...]]:
    """Our shaders, their zero point bound with another dtype whatever the key says; and the dtype that the key says."""
    said: str = request.param
    shaders = tmp_path_factory.mktemp("lie") / "shaders"
    shutil.copytree(SHADERS, shaders)
    macros = {"ZP_TYPE": GLSL["i32" if said in WORDS else LIES[said]], "ZP_FORMAT": FORMATS[LIES[said]]}
    lie = "".join(f"#undef {name}\n#define {name} {value}\n" for name, value in macros.items())
    for path in shaders.glob("*.comp"):
        changed = ("#version 450\n", f"#version 450\n{STORAGE_EXTENSIONS}{lie}")
        path.write_text(replaced(path.read_text(), changed))
    return said, plan(load_manifests(shaders))


@pytest.mark.parametrize(("kernel", "algorithm"), WITH_ZERO_POINT)
def test_a_lie_about_the_zero_point_fails_the_build(
    lying_tree: tuple[str, tuple[Job, ...]], tmp_path: Path, kernel: str, algorithm: str
) -> None:
    """Every kernel and tier by itself, in both storages: what the original bug would have met."""
    said, jobs = lying_tree
    done = LIES[said]
    declared = {
        "buffer": f"buffer of {'u32' if said in WORDS else said}",
        "image": f"image of {FORMATS[said]} of {'i' if said[0] == 'i' else 'f'}32",
    }
    found = {
        "buffer": f"buffer of {'i32' if said in WORDS else done}",
        "image": f"image of {FORMATS[done]} of {'i' if said[0] == 'i' else 'f'}32",
    }
    for storage in ("buffer", "image"):
        offered = (
            job
            for job in jobs
            if (job.key.kernel, job.key.algorithm) == (kernel, algorithm)
            and f"zp={said}:{storage}" in [str(slot) for slot in job.key.slots]
        )
        job = next(offered, None)
        if job is None:
            assert (said, storage) not in USUAL_ZERO_POINTS[algorithm]
            continue
        with pytest.raises(ShaderError) as error:
            compile_variants([job], find_toolchain(), cache_dir=tmp_path, workers=1)
        refused = f"{job.algorithm.source.name}: {job.key}: "
        if storage == "buffer" and said in WORDS and kernel in PUTS_PARTS:  # no atomics on int with words
            assert str(error.value).startswith(refused)
            assert "'atomicAnd'" in str(error.value)
        else:
            assert str(error.value) == f"{refused}slot zp: {declared[storage]} declared; found {found[storage]}"

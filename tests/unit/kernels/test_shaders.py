"""The repository's own shaders: nothing is left over, and every one of them has variants that the library holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zeropoint.dtypes import DType, Storage
from zeropoint.kernels.build import plan
from zeropoint.kernels.keys import slot_choices
from zeropoint.kernels.manifest import Manifest
from zeropoint.kernels.manifest_reader import load_manifests

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
    """Zero points: each dtype, in buffers and in images, beside every other choice of the kernel."""
    for index, slot in enumerate(manifest.slots):
        if slot.name not in QPARAM_SLOTS:
            continue
        assert set(slot.dtypes) == QPARAM_SLOTS[slot.name]
        rows = slot_choices(manifest)
        rest = {row[:index] + row[index + 1 :] for row in rows}
        assert {row[index].storage for row in rows} == {Storage.BUFFER, Storage.IMAGE}
        assert len(rows) == len(rest) * len(slot.dtypes)
        assert slot.view is None

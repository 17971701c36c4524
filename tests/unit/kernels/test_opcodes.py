"""backend/opcodes.py against the manifests: one number an operator, on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeropoint.kernels.manifest_reader import load_manifests
from zeropoint.opcodes import KERNEL_OPS

MANIFESTS = {manifest.name: manifest for manifest in load_manifests(Path(__file__).parents[3] / "shaders")}


def declared(kernel: str) -> dict[str, int]:
    return {name: value for name, value in MANIFESTS[kernel].constants if name.startswith("OP_")}


@pytest.mark.parametrize("kernel", sorted(KERNEL_OPS))
def test_numbers_are_the_manifest_s(kernel: str) -> None:
    assert declared(kernel) == {f"OP_{op.name}": op.value for op in KERNEL_OPS[kernel]}


def test_every_kernel_with_operators_is_listed() -> None:
    assert {name for name in MANIFESTS if declared(name)} == set(KERNEL_OPS)

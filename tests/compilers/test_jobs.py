"""Specialization constants of the pipelines that compilers are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.kernels.manifest import Algorithm, Manifest
from backend.kernels.manifest_reader import load_manifests

from .jobs import calls, is_for_cpus

MANIFESTS = {manifest.name: manifest for manifest in load_manifests(Path(__file__).parents[2] / "shaders")}


def find(name: str) -> tuple[Manifest, Algorithm]:
    kernel, algorithm = name.split("/")
    return MANIFESTS[kernel], next(one for one in MANIFESTS[kernel].algorithms if one.name == algorithm)


def test_every_constant_of_every_algorithm_has_values() -> None:
    for manifest in MANIFESTS.values():
        for algorithm in manifest.algorithms:
            found = calls(manifest, algorithm)
            assert found
            assert {len(specs) for specs in found} == {len(algorithm.specs)}


def test_a_constant_without_values_is_named() -> None:
    manifest, algorithm = find("linear_dq8ca/gemv")
    other = replace(algorithm, specs=(replace(algorithm.specs[0], name="TWIST"), *algorithm.specs[1:]))
    with pytest.raises(
        KeyError, match=r"linear_dq8ca.toml: gemv: specialization constant TWIST: .* has no value of it"
    ):
        calls(manifest, other)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear_dq8ca/gemv", ((128, 8), (32, 1))),  # MAX_ROWS of the manifest
        ("linear_dq8ca/tiled", ((128, 8), (32, 8))),  # always MAX_ROWS
        ("matmul/few_rows_along_k", ((4,), (1,))),
        ("attention/tiled", ((16, 1), (16, 0))),  # MAX_QUADS of the algorithm
        ("attention/tiled_widest", ((64, 1), (16, 0))),
        ("argmax_rows/shared", ((1,), (0,))),
        ("reduce_rows/shared", ((1,), (0,), (2,), (3,))),  # each operator
        ("arange/elements", ((),)),
    ],
)
def test_the_large_call_comes_first_within_what_the_algorithm_takes(name: str, expected: object) -> None:
    assert calls(*find(name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("attention/many_rows", True),
        ("linear_dq8ca/broadcast_gemv", True),
        ("linear_dq8ca/gemv", False),
        ("row_linear/row", False),  # "not device.is_cpu"
        ("arange/elements", False),  # no guard
    ],
)
def test_what_only_software_devices_are_given(name: str, expected: bool) -> None:
    assert is_for_cpus(find(name)[1]) is expected

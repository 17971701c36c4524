"""Variant keys: which exist, in which order, and their text."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeropoint.errors import ManifestError
from zeropoint.kernels.keys import VariantKey, variant_keys
from zeropoint.kernels.manifest_reader import load_manifest

from .tiny import MANIFEST, replaced, write_tree


def keys(tmp_path: Path, *where: str) -> tuple[VariantKey, ...]:
    manifest = load_manifest(
        write_tree(tmp_path, manifest=replaced(MANIFEST, ("[slots]", f"where = {list(where)!r}\n[slots]")))
        / "tiny.toml"
    )
    return variant_keys(manifest, manifest.algorithms[0])


def test_every_combination_in_order(tmp_path: Path) -> None:
    found = [str(key) for key in keys(tmp_path)]
    assert len(found) == len(set(found)) == 4 * 2 * 2
    assert found[:3] == [
        "tiny/only[x=f32:buffer,zp=i8:buffer,bias=f32:buffer,y=f32:buffer]",
        "tiny/only[x=f32:buffer,zp=i8:buffer,bias=none,y=f32:buffer]",
        "tiny/only[x=f32:buffer,zp=i8:image,bias=f32:buffer,y=f32:buffer]",
    ]


def test_where_filters(tmp_path: Path) -> None:
    found = [str(key) for key in keys(tmp_path, "dtype(bias) == 'none' or dtype(zp) in ('i8', 'i32')")]
    assert len(found) == 4 * 2 + 2 * 2
    assert "tiny/only[x=f32:buffer,zp=i8:buffer,bias=f32:buffer,y=f32:buffer]" in found
    assert "tiny/only[x=f32:buffer,zp=f16:buffer,bias=f32:buffer,y=f32:buffer]" not in found


def of_its_own(tmp_path: Path, condition: str) -> list[str]:
    """The variants of an algorithm that has a condition beside the kernel's."""
    change = ('name = "only"', f'name = "only"\nwhere = ["{condition}"]')
    manifest = load_manifest(write_tree(tmp_path, manifest=replaced(MANIFEST, change)) / "tiny.toml")
    return [str(key) for key in variant_keys(manifest, manifest.algorithms[0])]


def test_where_of_an_algorithm(tmp_path: Path) -> None:
    found = of_its_own(tmp_path, "dtype(bias) == 'none'")
    assert len(found) == 4 * 2
    assert all("bias=none" in key for key in found)


def test_an_algorithm_without_variants(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as error:
        of_its_own(tmp_path, "dtype(x) == 'f16'")
    assert str(error.value) == "tiny.toml: algorithm.only.where: no variant is left (dtype(x) == 'f16')"


def test_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as error:
        keys(tmp_path, "dtype(x) == 'f16'")
    assert str(error.value) == "tiny.toml: where: no combination is left (dtype(x) == 'f16')"


def test_a_choice_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as error:
        keys(tmp_path, "dtype(zp) != 'f16' or storage(zp) == 'buffer'")
    assert str(error.value) == "tiny.toml: slots.zp: zp=f16:image is in no variant; widen where or drop it"

"""Versions of other packages: the ones in pyproject.toml, and a word about any other."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from zeropoint import ZeropointPartitioner
from zeropoint.errors import VersionWarning
from zeropoint.export.versions import TRIED, warn_of_untried

ROOT = Path(__file__).parents[2]


def test_pyproject_asks_for_what_was_tried() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for package, (low, high) in TRIED.items():
        wanted = f"{package}>={low[0]}.{low[1]},<{high[0]}.{high[1]}"
        assert f'"{wanted}"' in text


def test_the_ends_that_are_tested_are_within() -> None:
    ends = re.findall(r"(torch|transformers)==(\d+)\.(\d+)", (ROOT / "scripts/test_versions.sh").read_text())
    assert len(ends) == 4
    for package, *version in ends:
        low, high = TRIED[package]
        assert low <= tuple(map(int, version)) < high


@pytest.mark.parametrize(
    ("version", "said"), [("2.13.0+cpu", False), ("2.14.1", False), ("2.12.1", True), ("2.15.0", True)]
)
def test_another_version_is_said_in_one_line(version: str, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda package: version if package == "torch" else "0.18.0")
    if not said:
        ZeropointPartitioner()
        return
    with pytest.warns(
        VersionWarning, match=rf"^zeropoint: torch {re.escape(version)} was not tried .*'torch>=2\.13,<2\.15'$"
    ):
        ZeropointPartitioner()


def test_a_package_that_is_not_there_is_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    warn_of_untried("transformers")

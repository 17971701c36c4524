"""register(): one executorch, the pinned one; the refusal is one line that says what to install."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from zeropoint.errors import RuntimeFailure
from zeropoint.runtime import library
from zeropoint.runtime.register import EXECUTORCH, register

REPO = Path(__file__).parents[3]


@pytest.mark.parametrize("version", ["1.5.0", "1.5.10", "1.6.0+cpu", "15.1"])
def test_another_executorch_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(RuntimeFailure) as refused:
        register()
    text = f"register: executorch {version}; this build needs {EXECUTORCH}; pip install executorch=={EXECUTORCH}"
    assert str(refused.value) == text


def test_no_executorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(RuntimeFailure) as refused:
        register()
    assert str(refused.value) == f"register: executorch is not installed; pip install executorch=={EXECUTORCH}"


@pytest.mark.parametrize("version", [EXECUTORCH, f"{EXECUTORCH}+cpu"])
def test_the_pinned_executorch_loads_the_player(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    opened: list[str] = []
    monkeypatch.setattr(metadata, "version", lambda name: version)
    monkeypatch.setattr(library, "open_library", lambda: opened.append(version))
    register()
    assert opened == [version]


def test_the_version_is_the_pin() -> None:
    assert f'"executorch=={EXECUTORCH}"' in (REPO / "pyproject.toml").read_text()

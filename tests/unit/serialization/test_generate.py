"""`python -m backend.serialization.generate`, from the repository: an installed package has no schemas."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import ZeropointError
from backend.serialization import generate as generating
from backend.serialization.generate import SCHEMAS, generate
from zeropoint import serialization


def test_every_schema_is_generated(tmp_path: Path) -> None:
    written = generate(out=tmp_path / "python", cpp=tmp_path / "cpp")
    assert [path.name for path in written] == [
        "__init__.py",
        "common_generated.py",
        "library_generated.py",
        "program_generated.py",
        "common_generated.h",
        "library_generated.h",
        "program_generated.h",
    ]
    assert all(path.is_file() for path in written)
    assert {path.stem for path in generating.HERE.glob("*.fbs")} == set(SCHEMAS)


def test_the_imported_code_is_what_the_schemas_give(tmp_path: Path) -> None:
    imported = Path(serialization.__file__).parent / "_generated"
    for path in generate(out=tmp_path):
        assert path.read_text() == (imported / path.name).read_text(), path.name


def test_no_flatc(tmp_path: Path) -> None:
    with pytest.raises(ZeropointError) as error:
        generate(flatc="/no/flatc", out=tmp_path)
    assert str(error.value) == (
        "flatc: no such program (got '/no/flatc'); install the Debian package flatbuffers-compiler or pass --flatc"
    )


def test_a_schema_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SCHEMAS:
        (tmp_path / f"{name}.fbs").write_text("table {")
    monkeypatch.setattr(generating, "HERE", tmp_path)
    with pytest.raises(ZeropointError, match=r"(?s)^flatc: exit 1 of \S*flatc --python .*common\.fbs:1: .*error: "):
        generate(out=tmp_path / "out")

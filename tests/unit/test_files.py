"""Files are there as a whole or not at all, and writing them touches no other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from zeropoint import files
from zeropoint.files import replace_file


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_replace_is_all_or_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "m.pte"
    replace_file(path, lambda file: file.write(b"first"))

    def broken(file: BinaryIO) -> None:
        file.write(b"sec")
        raise error("disk")

    with pytest.raises(error, match="disk"):
        replace_file(path, broken)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"not ours")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "known")
    (tmp_path / ".m.pte.known.part").symlink_to(other)
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "m.pte", lambda file: file.write(b"ours"))
    assert other.read_bytes() == b"not ours"
    assert not (tmp_path / "m.pte").exists()


def test_permissions_are_the_users(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "m.pte", lambda file: file.write(b""))
    finally:
        os.umask(before)
    assert (tmp_path / "m.pte").stat().st_mode & 0o777 == 0o640

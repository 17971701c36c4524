from __future__ import annotations

from pathlib import Path

import pytest

from zeropoint.errors import OptionError
from zeropoint.llm.files import check_output, tokenizer_path


def test_tokenizer_lies_beside_the_program() -> None:
    assert tokenizer_path(Path("a/smollm2.pte")) == Path("a/smollm2.tokenizer.json")


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.pte").mkdir()
    for path, text in (
        (tmp_path / "m.bin", r"export: .*m\.bin: suffix '\.bin'; need \.pte"),
        (tmp_path / "no" / "m.pte", r"export: .*m\.pte: no folder .*no; make it first"),
        (tmp_path / "folder.pte", r"export: .*folder\.pte: is a folder; give a file"),
    ):
        with pytest.raises(OptionError, match=text):
            check_output(path)
    check_output(tmp_path / "m.pte")

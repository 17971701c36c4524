"""How .gguf files are read."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from tests.e2e.test_gguf_files import Written
from zeropoint.llm.gguf_files import GgufFile


def test_a_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds a time where a vocabulary is large; the gguf package is left as it was."""
    Written("Llama", tmp_path / "model.gguf")
    parsed = []

    class Counting(gguf.GGUFReader):
        def __init__(self, *args: object) -> None:
            parsed.append(args)
            super().__init__(*args)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    found, names = GgufFile(tmp_path / "model.gguf"), gguf.get_tensor_name_map
    found.config()
    found.tokenizer()
    found.load()
    assert len(parsed) == 1
    assert gguf.GGUFReader is Counting
    assert gguf.get_tensor_name_map is names

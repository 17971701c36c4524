"""What libFuzzer begins with is sound, or it would only ever see what the first checks refuse."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import seeds
from zeropoint.runtime.player import verify_blob


def test_every_seed_is_accepted(tmp_path: Path) -> None:
    seeds.main(tmp_path)
    programs = sorted((tmp_path / "program").iterdir())
    assert len(programs) > 8
    for program in programs:
        verify_blob(program.read_bytes())
    sample = (tmp_path / "sample.zpp").read_bytes()
    verify_blob(sample, library=(tmp_path / "library" / "all").read_bytes())

"""The player stays small: a new operator costs no C++."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).parents[3]
NATIVE = REPO / "backend" / "runtime" / "native"
SOURCES = sorted([*NATIVE.glob("*.cpp"), *NATIVE.glob("*.h")])
MOST_LINES = 4050  # runner included; blank and comment lines are not counted


def test_lines_of_code() -> None:
    lines = [line.strip() for path in SOURCES for line in path.read_text().splitlines()]
    code = [line for line in lines if line and not line.startswith("//")]
    assert 1000 < len(code) <= MOST_LINES


def test_the_player_names_no_operator() -> None:
    names = [path.stem for path in sorted((REPO / "shaders").glob("*.toml"))]
    assert len(names) >= 6
    text = "\n".join(path.read_text() for path in SOURCES)
    assert [name for name in names if f'"{name}"' in text or ("_" in name and re.search(rf"\b{name}\b", text))] == []

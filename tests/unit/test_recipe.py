"""The README's recipe is true: a kernel costs the places that it names, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("backend", "shaders", "tests", "cmake", "scripts", "bench", "examples")


def test_a_new_operator_costs_the_places_of_the_recipe() -> None:
    """Counted for cumsum_rows, whose rule is in the family `rows`; tests/compilers/record.txt a command writes."""
    recipe = (ROOT / "README.md").read_text().partition("## Add a kernel: four places")[2].partition("\n\nThe build")[0]
    steps = re.findall(r"^\d\. (`.*)", recipe, re.MULTILINE)
    assert len(steps) == 4
    named = {path for step in steps for path in re.findall(r"`(\S+\.\w+)`", step)}
    wanted = {path.replace("<kernel>", "cumsum_rows").replace("<family>", "rows") for path in named}
    found = {
        str(path.relative_to(ROOT))
        for folder in CODE
        for path in (ROOT / folder).rglob("*")
        if (
            path.suffix in (".py", ".toml", ".comp", ".glsl", ".cmake", ".sh", ".cpp", ".h")
            or path.name == "CMakeLists.txt"
        )
        and not {"_generated", "__pycache__"} & set(path.parts)
        and path != Path(__file__)
        and ("cumsum_rows" in path.stem or "cumsum_rows" in path.read_text())
    }
    assert found == wanted

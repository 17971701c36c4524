"""The rooms of the package: what imports what, in functions and for types as well."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

BACKEND = Path(__file__).parents[2] / "backend"
# From what people call down to what everything stands on: a room imports from itself and from those after it.
ROOMS = (
    "zeropoint", "cli", "verification", "llm", "export", "rules", "fusion", "lowering", "runtime", "references",
    "program", "kernels", "serialization", "quantization", "files", "errors", "version",
)  # fmt: skip
MOST_ENTRIES = 17


def modules(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; "zeropoint" for the package's own."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if "_generated" not in parts:
            found[name or "zeropoint"] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a module names in an import, wherever it stands."""
    package = [] if name == "zeropoint" else name.split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            full = ".".join([*base, alias.name])
            yield full if full in known else ".".join(base) or "zeropoint"


def graph_of(root: Path) -> dict[str, set[str]]:
    known = modules(root)
    graph = {name: set(imports_of(name, path, known)) for name, path in known.items()}
    missing = {
        (name, other)
        for name, others in graph.items()
        for other in others
        if other not in known and "_generated" not in other
    }
    assert not missing
    return {name: {other for other in others if other in known} for name, others in graph.items()}


def upward(graph: dict[str, set[str]], rooms: tuple[str, ...]) -> list[str]:
    rank = {room: place for place, room in enumerate(rooms)}
    room_of = {name: name.split(".")[0] for name in graph}
    return sorted(
        f"{name} -> {other}"
        for name, others in graph.items()
        for other in others
        if rank[room_of[other]] < rank[room_of[name]]
    )


def test_imports_run_downward() -> None:
    assert upward(graph_of(BACKEND), ROOMS) == []


def test_no_circle() -> None:
    assert tuple(graphlib.TopologicalSorter(graph_of(BACKEND)).static_order())


def test_the_listing_is_short() -> None:
    entries = {path.name for path in BACKEND.iterdir() if not path.name.startswith("__pycache__")}
    assert len(entries) <= MOST_ENTRIES
    assert {entry.removesuffix(".py").replace("__init__", "zeropoint") for entry in entries} == set(ROOMS)


def test_what_the_walk_sees(tmp_path: Path) -> None:
    """An import that runs up, one in a function, a circle, a module that is not there."""
    for name, text in {
        "__init__": "",
        "low/__init__": "",
        "low/a": "def f():\n    from ..high.b import c\n",
        "high/__init__": "",
        "high/b": "from ..low import a\nc = 1\n",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    graph = graph_of(tmp_path)
    assert upward(graph, ("zeropoint", "high", "low")) == ["low.a -> high.b"]
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter(graph).static_order())
    (tmp_path / "low" / "a.py").write_text("from ..high.gone import c\n")
    with pytest.raises(AssertionError, match=r"high\.gone"):
        graph_of(tmp_path)

"""Answers of compilers by what they were asked, in a file: a second run asks for what has changed."""

from __future__ import annotations

import threading
from pathlib import Path


class Cache:
    """A line an answer, `key`, tab, answer; lines that are cut are asked for again. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        self._answers = dict(line.rstrip("\n").split("\t", 1) for line in lines if line.endswith("\n") and "\t" in line)

    def get(self, key: str) -> str | None:
        return self._answers.get(key)

    def put(self, key: str, answer: str) -> None:
        with self._lock, self._path.open("a") as file:
            self._answers[key] = answer
            file.write(f"{key}\t{answer}\n")

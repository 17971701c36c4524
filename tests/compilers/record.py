"""What a GPU needs for each algorithm at worst, as text in git, and whether it has become worse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .jobs import Job

_SUMS = {
    "vgprs": ("VGPRs",),
    "sgprs": ("SGPRs",),
    "spilled": ("Spilled VGPRs", "Spilled SGPRs"),
    "scratch": ("Scratch size",),
    "lds": ("LDS size",),
    "subgroups": ("Subgroups per SIMD",),
}  # in a driver's words
COLUMNS = tuple(_SUMS)
_HEADER = re.compile(r"\[(\w+), (.+)\]")
_WIDTH = 34


@dataclass(frozen=True, slots=True)
class Worst:
    """values: of COLUMNS, each the worst of all pipelines. where: the pipeline that has it."""

    values: tuple[int, ...]
    where: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """What one driver needs for one family, by `kernel/algorithm`."""

    driver: str
    worst: Mapping[str, Worst]


def statistics(answer: str) -> tuple[int, ...] | None:
    """COLUMNS of a pipeline that was made."""
    if answer.startswith(("refused\t", "failed\t")):
        return None
    found = dict(part.split("=") for part in answer.split("\t"))
    return tuple(sum(int(found[name]) for name in _SUMS[column]) for column in COLUMNS)


def worst(jobs: Sequence[Job], answers: Sequence[str]) -> dict[str, Worst]:
    """Of each algorithm, over its pipelines that were made."""
    found: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for job, answer in zip(jobs, answers, strict=True):
        if (values := statistics(answer)) is not None:
            found.setdefault(job.name, []).append((values, f"{job.key} with {job.specs}"))
    result = {}
    for name, rows in found.items():
        picks = [
            (min if column == "subgroups" else max)(rows, key=lambda row, i=i: row[0][i])
            for i, column in enumerate(COLUMNS)
        ]
        result[name] = Worst(tuple(pick[0][i] for i, pick in enumerate(picks)), tuple(pick[1] for pick in picks))
    return result


def write(record: Mapping[str, Section]) -> str:
    lines = [f"{'':<{_WIDTH}}" + "".join(f"{column:>10}" for column in COLUMNS)]
    for family, section in record.items():
        lines.append(f"[{family}, {section.driver}]")
        for name, row in sorted(section.worst.items()):
            lines.append(f"{name:<{_WIDTH}}" + "".join(f"{value:>10}" for value in row.values))
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[str, Section]:
    record: dict[str, Section] = {}
    family = ""
    for line in text.splitlines()[1:]:
        if header := _HEADER.fullmatch(line):
            family = header[1]
            record[family] = Section(header[2], {})
            continue
        name, *values = line.split()
        record[family] = Section(
            record[family].driver, {**record[family].worst, name: Worst(tuple(int(value) for value in values))}
        )
    return record


def compare(family: str, recorded: Section | None, found: Section) -> list[str]:
    """What is worse than recorded, or cannot be compared, a line each."""
    if recorded is None:
        return [f"{family}: not recorded"]
    if recorded.driver != found.driver:
        return [f"{family}: compiled by {found.driver}; recorded of {recorded.driver}"]
    problems = [f"{family}: {name}: recorded, but none was made" for name in recorded.worst if name not in found.worst]
    for name, row in found.worst.items():
        if name not in recorded.worst:
            problems.append(f"{family}: {name}: not recorded")
            continue
        for column, value, before, where in zip(
            COLUMNS, row.values, recorded.worst[name].values, row.where, strict=True
        ):
            if value < before if column == "subgroups" else value > before:
                problems.append(f"{family}: {name}: {column} {value}; recorded {before}: {where}")
    return problems

"""The record of what GPUs need: what is worse fails, and is named."""

from __future__ import annotations

import pytest

from .jobs import Job
from .record import COLUMNS, Section, Worst, compare, read, statistics, worst, write

ANSWER = (
    "Subgroup size=64\tSGPRs={sgprs}\tVGPRs={vgprs}\tSpilled SGPRs=1\tSpilled VGPRs={spilled}\tCode size=900\t"
    "LDS size=512\tScratch size=0\tSubgroups per SIMD={subgroups}\tHash=7"
)
ROW = (64, 32, 2, 256, 1024, 8)


def job(algorithm: str, index: int = 0) -> Job:
    return Job("linear", algorithm, index, (32, 1), f"linear/{algorithm}[{index}]", 0, "")


def answer(vgprs: int, sgprs: int, spilled: int, subgroups: int) -> str:
    return ANSWER.format(vgprs=vgprs, sgprs=sgprs, spilled=spilled, subgroups=subgroups)


def section(values: tuple[int, ...] = ROW, driver: str = "radv Mesa 1") -> Section:
    return Section(driver, {"linear/gemv": Worst(values, tuple(f"variant of {column}" for column in COLUMNS))})


def test_statistics_are_a_drivers() -> None:
    assert statistics(answer(64, 32, 2, 8)) == (64, 32, 3, 0, 512, 8)
    assert statistics("refused\tneeds float16") is None
    assert statistics("failed\tvkCreateComputePipelines: VK_ERROR_UNKNOWN") is None


def test_the_worst_of_each_column_and_where_it_is() -> None:
    jobs = [job("gemv", 0), job("gemv", 1), job("gemv", 2), job("tiled")]
    answers = [answer(64, 8, 0, 8), answer(32, 16, 0, 10), "refused\tneeds float16", "refused\tneeds float16"]
    found = worst(jobs, answers)
    assert list(found) == ["linear/gemv"]
    assert found["linear/gemv"].values == (64, 16, 1, 0, 512, 8)
    assert found["linear/gemv"].where[0] == "linear/gemv[0] with (32, 1)"
    assert found["linear/gemv"].where[1] == "linear/gemv[1] with (32, 1)"


def test_what_is_written_is_read() -> None:
    record = {"navi21": section(), "navi31": section((1, 2, 3, 4, 5, 6), "radv Mesa 25.0.7-2~bpo12+1")}
    assert read(write(record)) == {
        family: Section(one.driver, {name: Worst(row.values) for name, row in one.worst.items()})
        for family, one in record.items()
    }


@pytest.mark.parametrize("column", COLUMNS)
def test_worse_in_any_column_fails_and_better_does_not(column: str) -> None:
    i = COLUMNS.index(column)
    more, less = ((*ROW[:i], ROW[i] + change, *ROW[i + 1 :]) for change in (1, -1))
    worse, better = (less, more) if column == "subgroups" else (more, less)
    assert compare("navi21", section(), section(worse)) == [
        f"navi21: linear/gemv: {column} {worse[i]}; recorded {ROW[i]}: variant of {column}"
    ]
    assert compare("navi21", section(), section(better)) == []
    assert compare("navi21", section(), section()) == []


def test_what_cannot_be_compared_fails() -> None:
    nothing = Section("radv Mesa 1", {})
    assert compare("navi21", None, section()) == ["navi21: not recorded"]
    assert compare("navi21", section(), section(driver="radv Mesa 2")) == [
        "navi21: compiled by radv Mesa 2; recorded of radv Mesa 1"
    ]
    assert compare("navi21", section(), nothing) == ["navi21: linear/gemv: recorded, but none was made"]
    assert compare("navi21", nothing, section()) == ["navi21: linear/gemv: not recorded"]

"""Compilers are asked once, those that end their process are no loss, and what is not translated is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .jobs import Job
from .radv import FAMILIES, Compiler
from .translate import translate, untranslated

ASKED = "asked.txt"


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\nimport os, sys\nfrom pathlib import Path\n{body}")
    path.chmod(0o755)
    return path


def jobs() -> list[Job]:
    return [Job("kernel", name, 0, (7,), f"kernel/{name}", 0, name) for name in ("one", "crash", "two", "three")]


def pipelines(folder: Path) -> Path:
    """As pipelines.cpp, but that it dies at the word crash, and writes down what it was asked."""
    body = f"""
print(os.environ["RADV_FORCE_FAMILY"] + "\\tMesa 1", flush=True)
for line in sys.stdin:
    with Path({str(folder / ASKED)!r}).open("a") as file:
        file.write(line)
    if "crash" in line:
        os.abort()
    print("VGPRs=" + str(len(line)), flush=True)
"""
    return program(folder / "pipelines", body)


def test_a_compiler_that_dies_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    family = FAMILIES[0]
    compiler = Compiler(pipelines(tmp_path), {family.driver: tmp_path / "icd.json"}, tmp_path / "cache")
    counted: list[int] = []
    result = compiler.compile(family, jobs(), counted.append)
    died = "failed\tthe compiler ended its process (status -6)"
    assert result.driver == "Mesa 1"
    assert result.answers == ("VGPRs=15", died, "VGPRs=15", "VGPRs=17")
    assert sum(counted) == 4
    (tmp_path / ASKED).unlink()
    assert compiler.compile(family, jobs(), counted.append) == result
    assert (tmp_path / ASKED).read_text() == "kernel crash 0 7\n"


def test_a_driver_that_does_not_open_says_why(tmp_path: Path) -> None:
    family = FAMILIES[0]
    silent = program(tmp_path / "silent", "sys.exit('no Vulkan driver')")
    compiler = Compiler(silent, {family.driver: tmp_path / "icd.json"}, tmp_path / "cache")
    with pytest.raises(RuntimeError, match="silent: no Vulkan driver"):
        compiler.compile(family, jobs(), lambda more: None)


def test_untranslated_modules_are_named_with_the_reason(tmp_path: Path) -> None:
    refuse = program(tmp_path / "refuse", "sys.exit('no matrices' if b'x' in Path(sys.argv[-1]).read_bytes() else 0)")
    commands = {"MSL": (str(refuse), "--msl")}
    counted: list[int] = []
    answers = translate([b"axe", b"bee"], commands, tmp_path / "cache.txt", counted.append)
    assert answers == {"MSL": ("no matrices", "")}
    assert sum(counted) == 2
    variants = [Job("linear", "gemv", index, specs, "", index // 2, "") for index in range(3) for specs in ((1,), (2,))]
    assert untranslated(variants, answers) == "MSL: linear/gemv: 2 variants: no matrices\n"
    refuse.write_text("#!/bin/false\n")  # of another size: asked again
    refuse.chmod(0o755)
    assert translate([b"bee"], commands, tmp_path / "cache.txt", counted.append) == {"MSL": ("status 1",)}

"""The README does what it says: its Python blocks run as they stand, and every command in it exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.e2e import smollm2
from tests.e2e.test_executorch_llama import write_checkpoint
from zeropoint.cli.main import main
from zeropoint.llm.files import tokenizer_path
from zeropoint.runtime.library import library_path

REPO = Path(__file__).parents[2]
README = (REPO / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PROGRAMS = ("make", "pip", "python", "zeropoint", "zeropoint-run")


def commands() -> list[list[str]]:
    """The words of every command: indented lines, and code inside a sentence or a table."""
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    words = [shlex.split(text, comments=True) for text in [*lines, *spans] if text.split()[0] in PROGRAMS]
    return [item for item in words if len(item) > 1]


def check_zeropoint(words: list[str]) -> None:
    """Parses a command line without running it. Options alone are the group's."""
    if words[0].startswith("-"):
        main.make_parser(click.Context(main)).parse_args(words)
        return
    command = main.commands[words[0]]
    command.make_parser(click.Context(command)).parse_args(words[1:])


def help_of(*program: str | Path) -> str:
    return subprocess.run([*program, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[1])
def test_python_blocks_run(block: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    if "smollm2.pte" in block:
        made = smollm2.exported(smollm2.SMALL, smollm2.FEW_LAYERS)
        for path in (made, tokenizer_path(made)):
            shutil.copy(path, tmp_path)
    command = [sys.executable, "-c", block]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.pte"))


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 2
    assert README.count("```python") == len(BLOCKS) == README.count("```") // 2
    assert {words[0] for words in commands()} == set(PROGRAMS)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_exist(words: list[str]) -> None:
    program, *rest = words
    options = [word for word in rest if word.startswith("-")]
    if program == "zeropoint":
        check_zeropoint(rest)
    elif program == "make":
        assert set(rest) <= set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    elif program == "python":
        assert all(option in help_of(sys.executable, REPO / rest[0]) for option in options)
    elif program == "pip":
        assert rest[0] == "install"
        assert all(option in help_of(sys.executable, "-m", "pip", "install") for option in options)
    else:
        assert all(option in help_of(library_path().with_name(program)) for option in options)


def test_a_command_that_is_none_is_seen() -> None:
    with pytest.raises(click.NoSuchOption):
        check_zeropoint(["generate", "smollm2.pte", "--promt", "Hello"])
    with pytest.raises(KeyError):
        check_zeropoint(["generat", "smollm2.pte"])

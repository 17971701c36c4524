"""The Program's bytes: round trip, determinism, and refusals of everything else."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.unit.test_program import small
from zeropoint import ProgramError
from zeropoint.program import VERSION
from zeropoint.program.io import read_program, write_program


def test_round_trip() -> None:
    program = small()
    assert read_program(write_program(program)) == program


def test_equal_programs_give_equal_bytes() -> None:
    assert write_program(small()) == write_program(small())


def test_the_writer_verifies() -> None:
    with pytest.raises(ProgramError, match=r"^program: version 5; this package knows 1, 2, 3, 4"):
        write_program(replace(small(), version=5))


def test_another_identifier_is_refused() -> None:
    with pytest.raises(
        ProgramError, match=r"^program: identifier b'VK00'; need b'ZPP1'; not a Zeropoint delegate blob$"
    ):
        read_program(b"\x10\0\0\0VK00" + bytes(64))


def test_another_version_is_refused_by_number() -> None:
    data = bytearray(write_program(small()))
    changed = [i for i in range(8, len(data) - 3) if data[i : i + 4] == VERSION.to_bytes(4, "little")]
    texts = set()
    for position in changed:
        attempt = bytearray(data)
        attempt[position] = 9
        try:
            read_program(bytes(attempt))
        except ProgramError as error:
            texts.add(str(error))
    assert "program: version 9; this package knows 1, 2, 3, 4; export again" in texts


def test_damaged_bytes_are_an_error_or_another_valid_program() -> None:
    data = write_program(small())
    generator = random.Random(0)
    refused = 0
    for cut in range(0, len(data) // 2, 7):
        with pytest.raises(ProgramError):
            read_program(data[:cut])
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(8, len(data))] = generator.randrange(256)
        try:
            read_program(bytes(damaged))
        except ProgramError:
            refused += 1
    assert refused > 100

"""Damaged .pte files through the commands: `files.py FOLDER ROUNDS SEED`. Prints as JSON what each command did.

One process runs `inspect`, `run`, `verify` and `generate` for all of them; `zeropoint-run` is a process each. A crash
or a hang ends this process after the name of the damage on stderr.
"""

from __future__ import annotations

import faulthandler
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner
from executorch.exir._serialize._program import _get_extended_header

from zeropoint.cli.main import main
from zeropoint.runtime.library import library_path

SECONDS = 120  # a damage takes less than one where nothing else runs
WORDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0")


@dataclass
class Counts:
    """Exit codes by command, and what should not be: an exception, or more than one line of error."""

    codes: dict[str, Counter[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, command: str, damage: str, code: int, errors: str, exception: BaseException | None) -> None:
        self.codes.setdefault(command, Counter())[code] += 1
        lines = [line for line in errors.splitlines() if line]
        is_clean = code == 0 or (code in (1, 2) and (len(lines) == 1 or (command, code) == ("verify", 1)))
        if not is_clean or not isinstance(exception, SystemExit | None):
            self.faults.append(f"{command}: {damage}: exit code {code}, {exception!r}, {errors[-300:]!r}")


def damages(blob: bytes, rounds: int, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Cuts, flips, words, noise and appended bytes: anywhere, in the header, in ExecuTorch's tables, in segments."""
    header = _get_extended_header(blob[:64])
    assert header is not None
    places = (
        (0, len(blob)),
        (0, 64),
        (64, header.program_size),
        (header.segment_base_offset, header.segment_base_offset + 8192),
    )
    for index in range(rounds):
        data = bytearray(blob)
        at = chance.randrange(*places[index % len(places)])
        match index // len(places) % 5:
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                data[at : at + 4] = chance.choice(WORDS)
            case 3:
                data[at : at + 64] = chance.randbytes(64)
            case _ if index % 2:
                del data[at:]
            case _:
                data += chance.randbytes(1 + at % 64)
        yield f"damage {index} at {at} of {len(data)}", bytes(data)


def run(folder: Path, rounds: int, seed: int) -> Counts:
    """Each damage of folder/small.pte through every command."""
    blob, counts = (folder / "small.pte").read_bytes(), Counts()
    path, inputs = folder / "damaged.pte", [str(folder / "ids.npy"), str(folder / "positions.npy")]
    words = ["--tokenizer", str(folder / "small.tokenizer.json")]
    named = [argument for item in inputs for argument in ("--input", item)]
    commands = {
        "inspect": ["inspect", str(path)],
        "run": ["run", str(path), *named],
        "verify": ["verify", str(path), *named],
        "generate": ["generate", str(path), "--prompt", "w2 w3", "-n", "3", *words],
    }
    runner = library_path().with_name("zeropoint-run")
    for damage, data in damages(blob, rounds, random.Random(seed)):
        print(damage, file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        path.write_bytes(data)
        for name, arguments in commands.items():
            result = CliRunner().invoke(main, arguments)
            counts.add(name, damage, result.exit_code, result.stderr, result.exception)
        done = subprocess.run([runner, path, *named], capture_output=True, text=True, errors="replace", check=False)
        counts.add("zeropoint-run", damage, done.returncode, done.stderr, None)
    faulthandler.cancel_dump_traceback_later()
    return counts


if __name__ == "__main__":
    found = run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({"codes": found.codes, "faults": found.faults}))

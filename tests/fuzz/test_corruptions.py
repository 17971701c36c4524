"""Damaged blobs give an error or a correct load. `make fuzz` runs more against a player with AddressSanitizer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROUNDS = int(os.environ.get("ZEROPOINT_FUZZ_ROUNDS", "2000"))
SEED = int(os.environ.get("ZEROPOINT_FUZZ_SEED", "1"))
CORPUS = [os.environ["ZEROPOINT_FUZZ_CORPUS"]] if "ZEROPOINT_FUZZ_CORPUS" in os.environ else []
N_FILES = sum(len(os.listdir(folder)) for folder in CORPUS)
SECONDS = 60 + (ROUNDS + N_FILES) // 5


def our_leaks(report: str) -> list[str]:
    """LeakSanitizer's blocks with a frame of the player; Python's own remain at exit by design."""
    blocks = re.findall(r"(?:Direct|Indirect) leak of .*?(?=\n\n|\Z)", report, re.DOTALL)
    return [block for block in blocks if "libzeropoint" in block or "/native/" in block]


def test_damaged_blobs() -> None:
    script = Path(__file__).with_name("corrupt.py")
    asan = {"ASAN_OPTIONS": "detect_leaks=1:halt_on_error=1", "LSAN_OPTIONS": "exitcode=0"}
    preload = os.environ.get("ZEROPOINT_PRELOAD")  # the sanitizer's library must come first in a process of Python's
    done = subprocess.run(
        [sys.executable, script, str(ROUNDS), str(SEED), *CORPUS],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={**os.environ, **asan, **({"LD_PRELOAD": preload} if preload else {})},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "ERROR: AddressSanitizer" not in done.stderr, done.stderr[-4000:]
    assert "runtime error:" not in done.stderr, done.stderr[-4000:]
    assert our_leaks(done.stderr) == []
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["files"] == N_FILES
    assert counts["loaded"] + counts["refused"] == ROUNDS + N_FILES
    assert counts["loaded"] > ROUNDS // 50, "the damage is too coarse to reach past the verifier"
    assert counts["refused"] > ROUNDS // 2
    assert (counts["without_text"], counts["programs"], counts["device_bytes"]) == (0, 0, 0)


def test_a_leak_of_the_player_is_seen() -> None:
    ours = "Direct leak of 8 byte(s) in 1 object(s) allocated from:\n    #0 new\n    #1 f /x/native/context.cpp:3"
    python = "Direct leak of 8 byte(s) in 1 object(s) allocated from:\n    #0 malloc\n    #1 PyList_New"
    assert our_leaks(f"==1==ERROR: LeakSanitizer\n\n{python}\n\n{ours}\n\nSUMMARY: 16 bytes") == [ours]

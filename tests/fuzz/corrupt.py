"""Loads damaged Program blobs: `corrupt.py ROUNDS SEED`. Prints as JSON how many loaded and how many were refused.

A crash ends the process, a hang outlives the caller's patience, an error without a text or of another class ends it
with a traceback, and what is not given back shows in the counts.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator

import numpy as np

from zeropoint.builder import ProgramBuilder
from zeropoint.errors import RuntimeFailure
from zeropoint.packing import Layout, pack_scales, pack_weight
from zeropoint.runtime.player import LoadedProgram, counters, programs
from zeropoint.serialization.program_io import write_program

WORDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0")


def sample() -> tuple[bytes, dict[str, bytes]]:
    """A blob with symbols, both storages, attributes of both kinds, constants; and its constants."""
    b = ProgramBuilder()
    rows = b.symbol("m", 1, 64)
    x = b.tensor("x", "f32", [rows, 64])
    scale = b.tensor("scale", "f32", [rows], storage="image")
    zero = b.tensor("zp", "i8", [rows], storage="image")
    q = b.tensor("q", "i8", [rows, 64])
    y = b.tensor("y", "f32", [rows, 32])
    layout = Layout.of(64, 32)
    codes = np.random.default_rng(0).integers(-8, 8, (32, 64), np.int8)
    weight = b.constant("w", "i4", [2, 32, 32], data=pack_weight(codes, layout, bits=4))
    scales = b.constant("w_scale", "f32", [2, 32], data=pack_scales(np.ones((32, 2), np.float32), layout))
    b.input(x)
    b.call(
        "choose_qparams_per_row",
        {"x": x, "scale": scale, "zp": zero},
        {"mapping": 0, "qmin": -128, "qmax": 127, "eps": 1e-7},
    )
    packing = {"rounding": 0, "qmin": -128, "qmax": 127, "group_size": 32, "group_padded": 32, "step": 32}
    b.call("quantize_and_pack", {"x": x, "scale": scale, "zp": zero, "q": q}, packing)
    groups = {"group_size": 32, "group_padded": 32, "step": 32}
    b.call("linear_q4gsw", {"x": x, "w": weight, "w_scale": scales, "y": y}, groups)
    b.output(q)
    b.output(y)
    program, constants = b.build()
    return write_program(program), constants


def damaged(blob: bytes, rounds: int, chance: random.Random) -> Iterator[bytes]:
    """Cuts, flipped bits, overwritten words, moved pieces and appended bytes."""
    for _ in range(rounds):
        data = bytearray(blob)
        at = chance.randrange(len(data) - 4)
        match chance.randrange(5):
            case 0:
                del data[chance.randrange(len(data)) :]
            case 1:
                for _ in range(chance.randrange(1, 4)):
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 2:
                data[at : at + 4] = chance.choice((*WORDS, chance.randbytes(4)))
            case 3:
                start = chance.randrange(len(data) - 4)
                size = chance.randrange(1, 64)
                data[at : at + size] = data[start : start + size]
            case _:
                data += chance.randbytes(chance.randrange(1, 64))
        yield bytes(data)


def fuzz(rounds: int, chance: random.Random) -> dict[str, int]:
    blob, constants = sample()
    LoadedProgram(blob, constants).close()
    before = counters()["device_bytes"]
    counts = {"loaded": 0, "refused": 0, "without_text": 0}
    for data in damaged(blob, rounds, chance):
        try:
            LoadedProgram(data, constants).close()
            counts["loaded"] += 1
        except RuntimeFailure as error:
            counts["refused" if str(error) else "without_text"] += 1
    return {**counts, "programs": len(programs()), "device_bytes": counters()["device_bytes"] - before}


if __name__ == "__main__":
    print(json.dumps(fuzz(int(sys.argv[1]), random.Random(int(sys.argv[2])))))

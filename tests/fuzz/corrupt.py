"""Loads damaged Program blobs: `corrupt.py ROUNDS SEED [CORPUS]`. Prints as JSON how many loaded and how many not.

CORPUS is a folder of libFuzzer's: blobs that went different ways through the reader. All of them are loaded, too.

A crash ends the process, a hang outlives the caller's patience, an error without a text or of another class ends it
with a traceback, and what is not given back shows in the counts.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from zeropoint.errors import RuntimeFailure
from zeropoint.lowering.packing import Layout, pack_scales, pack_weight
from zeropoint.program import Alternative, Dim, SymbolOp
from zeropoint.program.builder import ProgramBuilder
from zeropoint.program.io import write_program
from zeropoint.runtime import library as native
from zeropoint.runtime.player import LoadedProgram, counters, programs

N_OUTPUTS = 3  # of sample()
I64 = 3  # of HostDType
WORDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0")


def sample() -> tuple[bytes, dict[str, bytes]]:
    """A blob with everything a Program can hold, and its constants.

    Given and derived symbols, both storages, all three memories, an alias of each memory that can have one, attributes
    of all three kinds, an alternative, a check of an input, and a call that reports faults.
    """
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
    packing = {"rounding": 0, "qmin": -128, "qmax": 127, "group_size": 32, "group_padded": 32, "step": 32}
    places = {"x_offset": 0, "x_inner_rows": 1, "x_outer_stride": 64, "x_inner_stride": 0}
    places |= {"up_offset": 0, "up_row_stride": 0, "prologue": 0, "op": 0, "row_length": 64, "mapping": 0}
    b.call(
        "quantize_rows",
        {"x": x, "weight": x, "up": x, "scale": scale, "zp": zero, "q": q},
        {**places, **packing, "norm_eps": 0.0, "weight_offset": 0.0, "eps": 1e-7},
    )
    b.call(
        "choose_qparams_per_row",
        {"x": x, "scale": scale, "zp": zero},
        {"mapping": 0, "qmin": -128, "qmax": 127, "eps": 1e-7},
    )
    b.call("quantize_and_pack", {"x": x, "scale": scale, "zp": zero, "q": q}, packing)
    groups = {"group_size": 32, "group_padded": 32, "step": 32}
    b.call("linear_qgsw", {"x": x, "w": weight, "w_scale": scales, "y": y}, groups)
    first = np.linspace(0, 1, 64 * 32, dtype=np.float32)
    history = b.state("history", "f32", [64, 32], data=first)
    b.call("strided_copy", {"x": y, "y": history}, _copied(rows, 32, offset=Dim(0, ((32, 0),))), name="remember")
    third = b.derived(SymbolOp.QUOTIENT, b.derived(SymbolOp.PRODUCT, rows, Dim(2)), Dim(3))
    z = b.tensor("z", "f32", [third, 16])
    b.call("strided_copy", {"x": b.alias(history, [rows, 32]), "y": z}, _copied(third, 16), name="recall")
    ids, places = b.tensor("ids", "i32", [rows]), b.tensor("places", "i32", [rows])
    b.input(ids, "i64")
    b.check(0, Dim(64, ((-1, 0),)), "rows of history", tensor=ids, sizes=[rows], strides=[1])
    bounds = {"low": 0, "high": 63, "wrap": 0, "outside": -1, "call": 0}
    flat: dict[str, int | float | Dim] = {key: value for key, value in _copied(rows, 1).items() if key[0] != "y"}
    b.call("check_index", {"x": ids, "y": places, "faults": b.faults()}, {**flat, **bounds})
    b.output(q)
    b.output(b.alias(y, [rows, 2, 16]))
    b.output(z)
    b.replace_calls(b.made_calls(), [Alternative(0, 1, 2)])
    program, constants = b.build()
    return write_program(program), constants


def _copied(rows: Dim, columns: int, *, offset: int | Dim = 0) -> dict[str, int | float | Dim]:
    """Attributes of a strided_copy of [rows, columns], dense on both sides, to an offset of y."""
    attrs: dict[str, int | float | Dim] = {"size0": 1, "size1": 1, "size2": rows, "size3": columns}
    strides = {f"{slot}_stride{axis}": (0, 0, columns, 1)[axis] for slot in "xy" for axis in range(4)}
    return {**attrs, **strides, "x_offset": 0, "y_offset": offset}


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


def use(loaded: LoadedProgram) -> None:
    """What is safe with forged attributes: binds inputs, computes output shapes, gives states their first contents."""
    inputs = np.zeros((7, 64), np.float32), np.zeros(7, np.int64)
    given = (native.TensorStruct * 2)()
    for struct, array in zip(given, inputs, strict=True):
        struct.rank, struct.data, struct.size_bytes = array.ndim, array.ctypes.data, array.nbytes
        struct.dims[: array.ndim] = array.shape
    given[1].dtype = I64
    shapes = (native.TensorStruct * N_OUTPUTS)()
    native.open_library().zp_output_shapes(programs()[-1].id, given, len(inputs), shapes, N_OUTPUTS)
    loaded.reset()


def fuzz(rounds: int, chance: random.Random, corpus: Sequence[Path]) -> dict[str, int]:
    blob, constants = sample()
    with LoadedProgram(blob, constants) as loaded:
        loaded.execute([np.ones((7, 64), np.float32), np.arange(7)])
    before = counters()["device_bytes"]
    counts = {"loaded": 0, "refused": 0, "without_text": 0, "files": len(corpus)}
    for data in itertools.chain(damaged(blob, rounds, chance), (path.read_bytes() for path in corpus)):
        try:
            with LoadedProgram(data, constants) as loaded:
                use(loaded)
            counts["loaded"] += 1
        except RuntimeFailure as error:
            counts["refused" if str(error) else "without_text"] += 1
    return {**counts, "programs": len(programs()), "device_bytes": counters()["device_bytes"] - before}


if __name__ == "__main__":
    files = [path for folder in sys.argv[3:] for path in sorted(Path(folder).iterdir())]
    print(json.dumps(fuzz(int(sys.argv[1]), random.Random(int(sys.argv[2])), files)))

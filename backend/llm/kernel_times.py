"""Device time of one call of a text program by kernel, beside what this device can do at most.

The ceilings are measured here: a copy of a large buffer, and the 8da4w linear on matrices that keep the device busy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..kernels._generated.signatures import UnaryOp
from ..kernels.dtypes import DType
from ..program import Call, Program
from ..program.builder import ProgramBuilder
from ..runtime import player
from ..runtime.player import LoadedProgram, Pick, TensorInfo
from .generation import TextProgram

LONG_NS = 20_000_000  # a measurement as long as this is not made longer
REPEATS = 5
MAX_BYTES = 1 << 26  # of the copied buffer, and of a matrix: what every device binds
LOOKED_UP = ("embedding", "embedding_quantized", "embedding_packed", "gather")  # read a few rows of their tables


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this device did at most: bytes a second (read and written) and integer operations a second."""

    bytes_per_s: float
    operations_per_s: float

    def __str__(self) -> str:
        return f"copy {self.bytes_per_s / 1e9:.1f} GB/s, matrices {self.operations_per_s / 1e12:.3f} TOPS"


@dataclass(frozen=True, slots=True)
class KernelTime:
    """All calls of one algorithm in the median run. operations: 0 of what is no product of matrices."""

    name: str
    n_calls: int
    time_s: float
    n_bytes: int
    operations: int

    def text(self, ceilings: Ceilings) -> str:
        bandwidth, rate = self.n_bytes / self.time_s, self.operations / self.time_s
        line = f"    {self.name:40} x{self.n_calls:<4} {self.time_s * 1e3:10.3f} ms {bandwidth / 1e9:9.1f} GB/s "
        line += f"{bandwidth / ceilings.bytes_per_s:5.0%}"
        return line + (f" {rate / 1e12:9.3f} TOPS {rate / ceilings.operations_per_s:5.0%}" if rate else "")


def measure_kernels(path: Path, calls: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[KernelTime]]:
    """By (tokens, position) of a call: the times of its kernels, the longest first.

    With a barrier and a timestamp after each kernel call, so their sum is longer than a call without.
    """
    with player.load_flags(profile=True):
        text = TextProgram(path)
    programs = dict(zip(sorted(text.live), text.programs(), strict=True))
    found = {}
    for length, position in calls:
        runs: list[dict[str, KernelTime]] = []
        for _ in range(REPEATS + 1):
            text.scores([3] * length, position)
            filled = (position + length) / text.metadata.max_context
            runs.append(_sums(programs, filled))
        names = sorted(runs[0], key=lambda name: -runs[-1][name].time_s)
        found[length, position] = [_median([run[name] for run in runs[1:]]) for name in names]
    return found


def measure_ceilings() -> Ceilings:
    """On the device that ZEROPOINT_DEVICE means."""
    return Ceilings(_copy_rate(), _matrix_rate())


def work_of(call: Call, tensors: Sequence[TensorInfo], filled: float) -> tuple[int, int]:
    """The bytes that a call has to move, each once, and the operations of its matrix product (0: it has none).

    filled: the share of the caches that is in use. Of a table that is looked up, what is written counts.
    """
    n_bytes = 0.0
    for arg in call.args:
        tensor = tensors[arg.tensor]
        size = math.prod(tensor.dims) * DType(tensor.dtype).bits / 8
        if tensor.memory == "constant" and call.kernel in LOOKED_UP:
            continue
        n_bytes += size * (filled if tensor.memory == "state" else 1.0)
    weight = next((tensors[arg.tensor] for arg in call.args if arg.slot == "w"), None)
    if weight is None or len(weight.dims) != 3 or call.kernel in LOOKED_UP:
        return int(n_bytes), 0
    rows = math.prod(tensors[call.args[0].tensor].dims[:-1])
    return int(n_bytes), 2 * rows * math.prod(weight.dims)


def _sums(programs: Mapping[int, Program], filled: float) -> dict[str, KernelTime]:
    sums: dict[str, KernelTime] = {}
    for live, program in programs.items():
        tensors = player.tensors_of(live)
        for pick in player.picks_of(live):
            n_bytes, operations = work_of(program.calls[pick.call], tensors, filled)
            name = f"{pick.kernel}/{pick.algorithm}"
            old = sums.get(name, KernelTime(name, 0, 0.0, 0, 0))
            time_s = old.time_s + max(pick.time_ns or 0, 1) * 1e-9
            sums[name] = KernelTime(name, old.n_calls + 1, time_s, old.n_bytes + n_bytes, old.operations + operations)
    return sums


def _median(runs: Sequence[KernelTime]) -> KernelTime:
    first = runs[0]
    time_s = statistics.median(run.time_s for run in runs)
    return KernelTime(first.name, first.n_calls, time_s, first.n_bytes, first.operations)


def _copy_rate() -> float:
    n = MAX_BYTES // 4
    b = ProgramBuilder()
    x, y = b.tensor("x", "f32", [n]), b.tensor("y", "f32", [n])
    b.input(x)
    b.call("elementwise_unary", {"x": x, "y": y}, {"op": int(UnaryOp.NEG), "alpha": 0.0, "beta": 0.0})
    b.output(y)
    with LoadedProgram(*b.build(), profile=True) as loaded:
        return 2 * MAX_BYTES / _shortest_s(loaded, [np.ones(n, np.float32)])[0]


def _matrix_rate() -> float:
    """Of square weights that grow with the rows until the time is long enough to be trusted."""
    best, size = 0.0, 512
    while True:
        seconds, pick = _linear_s(rows=size // 2, width=size)
        best = max(best, size * size * size / seconds)
        if seconds * 1e9 >= LONG_NS or size * size >= MAX_BYTES or pick.time_ns is None:
            return best
        size *= 2


def _linear_s(*, rows: int, width: int) -> tuple[float, Pick]:
    generator = np.random.default_rng(0)
    chunks, steps = width // 32, width // 32
    b = ProgramBuilder()
    q, scale, zero_point = b.tensor("q", "i8", [rows, width]), b.tensor("s", "f32", [rows]), b.tensor("z", "i8", [rows])
    for tensor in (q, scale, zero_point):
        b.input(tensor)
    codes = generator.integers(0, 256, (chunks, width, 16), dtype=np.uint8)
    weight = b.constant("w", "i4", [chunks, width, 32], data=codes.tobytes())
    scales = generator.uniform(0.001, 0.002, (steps, width)).astype(np.float32)
    w_scale = b.constant("w_scale", "f32", [steps, width], data=scales.tobytes())
    sums = generator.integers(-20, 20, (steps, width), dtype=np.int32)
    w_sum = b.constant("w_sum", "i32", [steps, width], data=sums.tobytes())
    y = b.tensor("y", "f32", [rows, width])
    args = {"q": q, "scale": scale, "zp": zero_point, "w": weight, "w_scale": w_scale, "w_sum": w_sum, "y": y}
    b.call("linear_dq8ca", args, {"step": 32})
    b.output(y)
    inputs: list[np.ndarray] = [
        generator.integers(-128, 128, (rows, width)).astype(np.int8),
        generator.uniform(0.01, 0.02, rows).astype(np.float32),
        generator.integers(-128, 128, rows).astype(np.int8),
    ]
    with LoadedProgram(*b.build(), profile=True) as loaded:
        return _shortest_s(loaded, inputs)


def _shortest_s(loaded: LoadedProgram, inputs: list[np.ndarray]) -> tuple[float, Pick]:
    picks: list[Pick] = []
    for _ in range(REPEATS):
        loaded.execute(inputs)
        picks += loaded.picks()
    best = min(picks, key=lambda pick: pick.time_ns or 0)
    return max(best.time_ns or 0, 1) * 1e-9, best

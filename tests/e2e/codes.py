"""The quantization codes of a run beside eager PyTorch's: how many differ, and how near eager was to rounding so.

A code that falls the other way at a tie moves its row by a step, which flips codes of later layers that were near no
tie. So against eager the first quantization that differs is looked at alone, and the share of codes that differ is
taken from `verify`, where every quantization is judged on what it was given (and where a code may differ only near a
tie: references/row_values.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from torchao.quantization import utils
from torchao.quantization.quantize_.workflows.intx import intx_unpacked_to_int8_tensor

import zeropoint
from zeropoint.runtime import player
from zeropoint.runtime.running import open_program
from zeropoint.verification.report import Verification

SHARE = 1e-4  # of codes that differ, each quantization on the same inputs
EXACT, ROUNDED = 1e-6, 5e-2  # relative RMS: while no code differs, and once one did
TIE = 1e-4  # in codes, between eager's exact quotient and the tie, of the first codes that differ


@dataclass(frozen=True)
class Quantized:
    """One quantization of activations: x and q [rows, K], scale and zero_point [rows, 1]. x is eager's alone."""

    q: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    x: torch.Tensor | None = None


@dataclass
class Difference:
    """Of one run. first: codes that differ in the first quantization that differs; distances: theirs from a tie."""

    n_codes: int = 0
    n_different: int = 0
    first_call: int = -1
    n_first: int = 0
    distances: list[float] = field(default_factory=list)
    zero_point_distances: list[float] = field(default_factory=list)

    @property
    def furthest(self) -> float:
        """In codes, from the tie."""
        return max(self.distances + self.zero_point_distances, default=0.0)


@contextmanager
def recorded() -> Iterator[list[Quantized]]:
    """What eager's quantized linears make of their inputs; those that read one tensor count once."""
    found: list[Quantized] = []
    inputs: list[torch.Tensor] = []

    def recording(real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def quantize(
            x: torch.Tensor,
            block: Sequence[int],
            scale: torch.Tensor,
            zero_point: torch.Tensor,
            *rest: object,
            **options: object,
        ) -> torch.Tensor:
            q = real(x, block, scale, zero_point, *rest, **options)
            if not any(x is item for item in inputs):
                inputs.append(x)
                rows = x.reshape(-1, x.shape[-1])
                found.append(Quantized(q.reshape(rows.shape), scale.reshape(-1, 1), zero_point.reshape(-1, 1), rows))
            return q

        return quantize

    with ExitStack() as stack:
        for module in (utils, intx_unpacked_to_int8_tensor):
            stack.enter_context(mock.patch.object(module, "quantize_affine", recording(module.quantize_affine)))
        yield found


class KeptProgram:
    """A .pte of one delegate whose every tensor can be read after a run."""

    def __init__(self, path: Path) -> None:
        before = {live.id for live in player.programs()}
        with player.load_flags(keep_all=True):
            self._program = open_program(path)
            self._forward = self._program.load_method("forward")
        (self._id,) = [live.id for live in player.programs() if live.id not in before]
        (self._calls,) = [item.calls for item in zeropoint.inspect(path).programs]

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        (result,) = self._forward.execute(list(inputs))
        return result.clone()

    def quantized(self, rows: Sequence[int]) -> list[Quantized]:
        """Of the last run. rows: of each quantization in turn; the tensors are as large as the longest prompt."""
        found = []
        calls = [call for call in self._calls if call.kernel == "quantize_rows"]
        assert len(calls) == len(rows)
        for call, count in zip(calls, rows, strict=True):
            q, scale, zero_point = (self._read(call.tensor(slot)) for slot in ("q", "scale", "zp"))
            q = q.reshape(-1, q.shape[-1])
            found.append(Quantized(q[:count], scale.reshape(-1, 1)[:count], zero_point.reshape(-1, 1)[:count]))
        return found

    def _read(self, index: int) -> torch.Tensor:
        return torch.from_numpy(player.read_tensor(self._id, index).copy())


def compare(ours: Sequence[Quantized], eager: Sequence[Quantized]) -> Difference:
    """ours has no padding beyond eager's K: the models' widths are multiples of the group size."""
    result = Difference()
    for index, (mine, theirs) in enumerate(zip(ours, eager, strict=True)):
        assert mine.q.shape == theirs.q.shape
        different = mine.q.to(torch.int32) != theirs.q.to(torch.int32)
        result.n_codes += different.numel()
        result.n_different += int(different.sum())
        if not bool(different.any()) or result.first_call >= 0:
            continue
        result.first_call, result.n_first = index, int(different.sum())
        moved = (mine.zero_point.double() != theirs.zero_point.double()).squeeze(1)
        assert theirs.x is not None
        exact = theirs.x.double() / theirs.scale.double()
        if theirs.zero_point.is_floating_point():
            exact = exact + theirs.zero_point.double() if not bool(moved.any()) else exact
        still = different & ~moved.unsqueeze(1)
        result.distances = _from_tie(exact[still]).tolist()
        least = theirs.x.double().amin(1).clamp(max=0) / theirs.scale.double().squeeze(1)
        result.zero_point_distances = _from_tie(least[moved]).tolist()
    return result


def assert_as_eager(difference: Difference, error: float) -> None:
    """error: of the result, relative RMS. After a code has fallen the other way, as far as int8 itself is off."""
    if difference.n_different == 0:
        assert error <= EXACT
        return
    assert difference.furthest <= TIE
    assert error <= ROUNDED


def assert_few_differ(verified: Verification) -> None:
    """The codes of every quantization in verified runs; those that differ do so by one, so their mean square counts."""
    n_codes, n_different = 0, 0
    for run in verified.runs:
        for check in run.checks:
            if check.slot == "q" and run.program.calls[check.call].kernel == "quantize_rows":
                n_codes += check.n_elements
                n_different += round(check.rms_error**2 * check.n_elements)
    print(f"{n_different} of {n_codes} codes differ on the same inputs")
    assert n_codes > 0
    assert n_different <= SHARE * n_codes


def _from_tie(values: torch.Tensor) -> torch.Tensor:
    return (values - values.floor() - 0.5).abs()

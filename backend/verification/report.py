"""What a verification found, and how it reads: a table of calls, and all about the first one that is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..kernels.dtypes import DType
from ..program import Program
from ..runtime.player import Pick
from .interpreter import attributes, shape_of
from .recomputation import SlotCheck

# Used: the largest part of its tolerance that an element's error takes.
_HEADER = ("call", "max error", "RMS error", "tolerance", "used", "variant")


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """A delegate's result against the references of all its calls, errors added up.

    error: relative RMS of floats, or the share of integers that differ. tolerance: None where a rounding may decide.
    """

    index: int
    error: float
    tolerance: float | None

    @classmethod
    def of(cls, index: int, actual: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> OutputCheck:
        """Integers are not judged where the tolerance is not 0: the argmax of nearly equal numbers may be any."""
        if not wanted.dtype.is_floating_point:
            share = float((actual != wanted).double().mean()) if wanted.numel() else 0.0
            return cls(index, share, 0.0 if tolerance == 0 else None)
        a, b = actual.double(), wanted.double()
        finite = torch.isfinite(b)
        if not torch.equal(finite, torch.isfinite(a)):
            return cls(index, math.inf, tolerance)
        difference, size = float((a - b)[finite].norm()), float(b[finite].norm())
        return cls(index, difference / size if size else difference, tolerance)

    @property
    def is_right(self) -> bool:
        return self.tolerance is None or self.error <= self.tolerance

    def __str__(self) -> str:
        limit = "not judged" if self.tolerance is None else f"tolerance {self.tolerance:.3g}"
        wrong = "" if self.is_right else "  WRONG"
        return f"output {self.index} end to end: relative error {self.error:.3g}, {limit}{wrong}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a delegate.

    what: which run; delegate: its index in the method; picks: of the calls that ran, by index in the Program;
    shaders: file and macros of each.
    """

    what: str
    delegate: int
    device: str
    program: Program
    symbols: tuple[int, ...]
    picks: Mapping[int, Pick]
    shaders: Mapping[int, str]
    checks: tuple[SlotCheck, ...]
    outputs: tuple[OutputCheck, ...]

    @property
    def first_wrong(self) -> SlotCheck | None:
        """The first call, in their order, that is out of tolerance."""
        return next((check for check in self.checks if not check.is_right), None)

    @property
    def is_right(self) -> bool:
        return self.first_wrong is None and all(output.is_right for output in self.outputs)

    def __str__(self) -> str:
        given = zip(self.program.symbols, self.symbols, strict=True)
        sizes = " ".join(f"{symbol.name}={value}" for symbol, value in given)
        rows = [_HEADER, *(self._row(check) for check in self.checks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER) - 1)]
        title = f"{self.what}: delegate {self.delegate} on {self.device}"
        lines = [f"{title} with {sizes}" if sizes else title]
        for row in rows:
            numbers = "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=False))
            lines.append(f"{numbers}  {row[-1]}")
        return "\n".join([*lines, *map(str, self.outputs)])

    def _row(self, check: SlotCheck) -> tuple[str, ...]:
        slot = f"{check.slot}, elements that no call writes" if check.untouched else check.slot
        wrong = "" if check.is_right else "  WRONG"
        numbers = (f"{value:.3g}" for value in (check.max_error, check.rms_error, check.tolerance, check.excess))
        return (str(check.call), *numbers, f"{self.picks[check.call].key} {slot}{wrong}")

    def explain(self, check: SlotCheck) -> str:
        """A call's shader, attributes and tensors, and where its result is worst."""
        call, pick = self.program.calls[check.call], self.picks[check.call]
        values = attributes(call, self.symbols)
        lines = [
            f"{self.what}: delegate {self.delegate}: call {check.call} {call.name}: slot {check.slot} is wrong",
            f"  variant    {pick.key}",
            f"  shader     {self.shaders[check.call]}",
            f"  grid       {list(pick.grid)}{_pairs(pick.specs, ', constants ')}",
        ]
        if values:
            lines.append(f"  attributes {_pairs(values)}")
        for arg in call.args:
            tensor = self.program.tensors[arg.tensor]
            shape = [dim.value(self.symbols) for dim in tensor.dims]
            where = f"{tensor.storage.value}, {tensor.memory.value}"
            lines.append(f"  {arg.slot:10} {tensor.dtype.value} {shape} {tensor.name} ({where})")
        return "\n".join([*lines, *self._worst(check, call.tensor(check.slot))])

    def _worst(self, check: SlotCheck, tensor: int) -> Iterator[str]:
        item = self.program.tensors[tensor]
        place = np.unravel_index(check.element, shape_of(item, self.symbols))
        what = "elements that no call writes" if check.untouched else "elements"
        yield f"  wrong      {check.n_wrong} of {check.n_elements} {what}"
        number = ".9g" if item.dtype in (DType.F32, DType.F16) else ".0f"
        yield (
            f"  worst      {item.name}{[int(axis) for axis in place]} is {check.actual:{number}}; "
            f"the reference gives {check.wanted:{number}}, tolerance {check.tolerance:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """All runs that were verified, in order. Prints their tables and the verdict."""

    runs: tuple[Run, ...]

    @property
    def is_right(self) -> bool:
        return all(run.is_right for run in self.runs)

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.runs), self.verdict()])

    def verdict(self) -> str:
        """The first call that is wrong, with all that is known of it, or one line."""
        for run in self.runs:
            if run.first_wrong is not None:
                return run.explain(run.first_wrong)
            for output in run.outputs:
                if not output.is_right:
                    return f"{run.what}: delegate {run.delegate}: {output}, although every call is within its tolerance"
        count = sum(len(run.picks) for run in self.runs)
        return f"{count} calls in {len(self.runs)} runs of delegates: all within tolerance"


def _pairs(values: Mapping[str, int | float], before: str = "") -> str:
    text = " ".join(f"{name}={value}" for name, value in values.items())
    return f"{before}{text}" if text else ""

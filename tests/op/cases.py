"""Single kernel calls on the device, compared with their references on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from tests.op.calls import DEVICE_DTYPES, device_facts
from tests.op.tolerance import check_close, check_table
from zeropoint.errors import RuntimeFailure
from zeropoint.kernels.manifest import MOST_ITERATIONS
from zeropoint.program.builder import ProgramBuilder
from zeropoint.references import OutputSpec, find_reference, find_written
from zeropoint.runtime.player import LoadedProgram


@dataclass(frozen=True, slots=True)
class Packed:
    """A constant whose bytes are no dense tensor: an i4 table."""

    dtype: str
    dims: tuple[int, ...]
    data: np.ndarray


@dataclass(frozen=True, slots=True)
class Case:
    """One call. y is what the slot `y` holds before it; a dtype and a shape where that does not matter.

    units, magnitude: see tolerance.check_close. algorithm: the one that must be picked.
    """

    kernel: str
    inputs: Mapping[str, torch.Tensor | Packed]
    y: torch.Tensor | OutputSpec
    attrs: Mapping[str, int | float] = field(default_factory=dict)
    units: float = 0.0
    magnitude: torch.Tensor | None = None
    algorithm: str = ""


def out(shape: Sequence[int], dtype: torch.dtype) -> OutputSpec:
    return OutputSpec(tuple(shape), dtype)


class _Slots:
    """Tensors of one Program; a torch tensor that several calls read is declared once."""

    def __init__(self) -> None:
        self.builder = ProgramBuilder()
        self.given: list[np.ndarray] = []
        self._known: dict[int, int] = {}

    def read(self, slot: str, value: torch.Tensor | Packed) -> int:
        if id(value) not in self._known:
            self._known[id(value)] = self.declare(slot, value)
        return self._known[id(value)]

    def declare(self, slot: str, value: torch.Tensor | Packed | OutputSpec) -> int:
        if isinstance(value, Packed):
            return self.builder.constant(slot, value.dtype, value.dims, data=value.data)
        index = self.builder.tensor(slot, DEVICE_DTYPES[value.dtype], value.shape)
        if isinstance(value, torch.Tensor):
            self.builder.input(index)
            self.given.append(value.contiguous().numpy())
        return index


def run(cases: Sequence[Case]) -> list[torch.Tensor]:
    """Runs the cases as the calls of one Program, and returns their y."""
    slots = _Slots()
    for case in cases:
        args = {slot: slots.read(slot, value) for slot, value in case.inputs.items()}
        y = slots.declare("y", case.y)
        slots.builder.call(case.kernel, {**args, "y": y}, case.attrs)
        slots.builder.output(y)
    program, constants = slots.builder.build()
    with LoadedProgram(program, constants) as loaded:
        results = loaded.execute(slots.given)
        picks = loaded.picks()
    for case, pick in zip(cases, picks, strict=True):
        assert case.algorithm in ("", pick.algorithm)
    return [torch.from_numpy(result) for result in results]


def check(cases: Sequence[Case]) -> list[torch.Tensor]:
    """Runs the cases and compares them with their references; elements a call does not write must be untouched."""
    results = run(cases)
    for case, actual in zip(cases, results, strict=True):
        spec = OutputSpec(tuple(case.y.shape), case.y.dtype)
        inputs = {
            slot: torch.from_numpy(value.data) if isinstance(value, Packed) else value
            for slot, value in case.inputs.items()
        }
        wanted = find_reference(case.kernel)(inputs, case.attrs, {"y": spec})["y"]
        assert wanted.shape == actual.shape
        find_mask = find_written(case.kernel)
        mask = torch.ones(spec.shape, dtype=torch.bool)
        if find_mask is not None:
            mask = find_mask(inputs, case.attrs, {"y": spec})["y"]
        what = f"{case.kernel} {dict(case.attrs)}"
        if isinstance(case.y, torch.Tensor):
            assert torch.equal(bits(actual[~mask]), bits(case.y[~mask])), f"{what}: elements outside were written"
        magnitude = None if case.magnitude is None else case.magnitude[mask]
        check_close(actual[mask], wanted[mask], units=case.units, magnitude=magnitude, what=what)
        check_table(case.kernel, {**inputs, "y": actual}, case.attrs, {"y": wanted}, {"y": actual}, {"y": mask})
    return results


def bits(x: torch.Tensor) -> torch.Tensor:
    """The bytes of x, so that NaN and the sign of zero count in a comparison."""
    return x.contiguous().view(torch.uint8)


def ends_loops_early() -> bool:
    """Whether the device is one that ends a shader's loops early, and does not say so."""
    limit = device_facts()["max_loop_iterations"]
    assert limit in (MOST_ITERATIONS, 2**31 - 1)
    return limit == MOST_ITERATIONS


def right_or_refused(run_it: Callable[[], object], *, refused: bool) -> None:
    """refused: a device that ends loops early must say so, and only such a one may."""
    if not (refused and ends_loops_early()):
        run_it()
        return
    with pytest.raises(RuntimeFailure, match=r"max_loop_iterations .llvmpipe before Mesa 25 ends longer loops early"):
        run_it()

"""Lowers a whole exported model, runs the Program with the references, and compares with the exported module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from tests.edge import edge_program
from tests.unit.rules import models
from zeropoint import CompileOptions, Program
from zeropoint.export.preprocess import lower_program
from zeropoint.verification.interpreter import run_reference

Call = tuple[tuple[object, ...], dict[str, object]]  # as the exported module takes it


@dataclass(frozen=True, slots=True)
class Whole:
    """The Program, and the largest difference of its outputs relative to their largest value."""

    program: Program
    error: float

    def count(self, kernel: str) -> int:
        return Counter(call.kernel for call in self.program.calls)[kernel]

    def attrs(self, kernel: str) -> list[dict[str, object]]:
        """Attributes of the calls of a kernel."""
        return [{a.name: a.value for a in call.attrs} for call in self.program.calls if call.kernel == kernel]


def compare_whole(
    exported: ExportedProgram, dialect: str, calls: Sequence[Call], options: CompileOptions | None = None
) -> Whole:
    """Runs the calls one after the other: states go on in both."""
    chosen = options or CompileOptions()
    module = exported.module()
    lowered = models.aten(exported) if dialect == "aten" else edge_program(exported, chosen)
    program, constants = lower_program(lowered, chosen)
    states: dict[str, torch.Tensor] = {}
    error = 0.0
    for args, named in calls:
        given = tree_leaves((args, list(named.values())))
        (actual,) = run_reference(program, constants, given, states).outputs
        with torch.no_grad():
            (wanted,) = tree_leaves(module(*args, **named))
        assert actual.shape == wanted.shape
        assert actual.isfinite().all()
        error = max(error, float((actual - wanted).abs().max() / wanted.abs().max()))
    return Whole(program, error)


def decoding(*lengths: int) -> list[Call]:
    """Calls of a decoder with a static cache: each takes so many tokens after those before."""
    calls: list[Call] = []
    first = 0
    for length in lengths:
        ids = torch.randint(1, models.VOCABULARY, (1, length))
        calls.append(((), {"input_ids": ids, "cache_position": torch.arange(first, first + length)}))
        first += length
    return calls


def executorch_decoding(*lengths: int) -> list[Call]:
    """The same of ExecuTorch's own models."""
    return [((named["input_ids"], {"input_pos": named["cache_position"][:1]}), {}) for _, named in decoding(*lengths)]

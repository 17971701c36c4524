"""Lowers a whole module in both dialects, runs the Program with the references, and compares with eager PyTorch.

result = lower_and_compare(Model(), (x,), dynamic_shapes=({0: Dim("n", max=16)},), calls=[(longer_x,)])
assert result.kernels() == ["rms_norm", "strided_copy"]
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from unittest import mock

import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from tests.edge import edge_program
from zeropoint import rules
from zeropoint.export.preprocess import lower_program
from zeropoint.lowering.options import CompileOptions
from zeropoint.program import Program
from zeropoint.verification.interpreter import Interpretation, run_reference

DIALECTS = ("aten", "edge")


@dataclass(frozen=True, slots=True)
class Compared:
    """By dialect, the Program and the interpretation of every run."""

    programs: dict[str, Program]
    runs: dict[str, list[Interpretation]]

    def kernels(self, dialect: str | None = None) -> list[str]:
        """The kernel of every call, in order; without a dialect, that of all dialects, which must agree."""
        found = [[call.kernel for call in program.calls] for name, program in self.programs.items()
                 if dialect in (None, name)]  # fmt: skip
        assert all(kernels == found[0] for kernels in found), f"the dialects differ: {found}"
        return found[0]


def lower_and_compare(
    module: torch.nn.Module,
    inputs: tuple[object, ...],
    *,
    calls: Sequence[tuple[object, ...]] | None = None,
    families: Sequence[ModuleType] | None = None,
    dynamic_shapes: object = None,
    options: CompileOptions | None = None,
    dialects: Sequence[str] = DIALECTS,
    exports: Mapping[str, ExportedProgram] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Compared:
    """Exports with `inputs`, and compares their outputs, then those of each of `calls`; states go on from run to run.

    calls: default: the same inputs twice more when the module mutates buffers. families: in place of the rules' own.
    exports: what export() returned for each dialect, where it is there already: lowering does not change it.
    """
    patch = nullcontext() if families is None else mock.patch.object(rules, "_FAMILIES", tuple(families))
    result = Compared({}, {})
    with patch:
        for dialect in dialects:
            exported = exports[dialect] if exports else export(module, inputs, dialect, dynamic_shapes=dynamic_shapes)
            program, constants = lower_program(exported, options or CompileOptions())
            again = (inputs, inputs) if exported.graph_signature.buffers_to_mutate else ()
            result.programs[dialect], result.runs[dialect] = program, []
            eager, states = copy.deepcopy(module).eval(), {}
            for number, given in enumerate((inputs, *(again if calls is None else calls))):
                run = run_reference(program, constants, [_input(leaf) for leaf in tree_leaves(given)], states)
                with torch.no_grad():
                    wanted = tree_leaves(eager(*copy.deepcopy(given)))
                assert len(run.outputs) == len(wanted)
                for index, (actual, expected) in enumerate(zip(run.outputs, wanted, strict=True)):
                    where = f"{dialect}, run {number}, output {index}"
                    _assert_close(actual, expected, rtol=rtol, atol=atol, where=f"{where}\n{program}")
                result.runs[dialect].append(run)
    return result


def export(
    module: torch.nn.Module, inputs: tuple[object, ...], dialect: str, *, dynamic_shapes: object = None
) -> ExportedProgram:
    """The module in the ATen or the edge dialect, with the operators whole that the rules want whole."""
    fresh = copy.deepcopy(module).eval()
    with warnings.catch_warnings(action="ignore"):
        exported = torch.export.export(fresh, copy.deepcopy(inputs), dynamic_shapes=dynamic_shapes, strict=False)
        if dialect == "aten":
            return exported.run_decompositions({})
        assert dialect == "edge", dialect
        return edge_program(exported)


def _input(leaf: object) -> torch.Tensor | int:
    assert isinstance(leaf, (torch.Tensor, int)), leaf
    return leaf


def _assert_close(actual: torch.Tensor, wanted: torch.Tensor, *, rtol: float, atol: float, where: str) -> None:
    assert (actual.dtype, actual.shape) == (wanted.dtype, wanted.shape), where
    exact = not wanted.dtype.is_floating_point
    torch.testing.assert_close(
        actual,
        wanted,
        rtol=0 if exact else rtol,
        atol=0 if exact else atol,
        equal_nan=True,
        msg=lambda text: f"{where}\n{text}",
    )

"""Checks of the rules that take one operator each, without the rules that fuse several."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.export import ExportedProgram

from tests.unit.rules.lowered import DIALECTS, Compared, export, lower_and_compare
from zeropoint import CompileOptions, Program, rules
from zeropoint.export.matching import is_arithmetic, match_program
from zeropoint.kernels.dtypes import DType, Storage
from zeropoint.kernels.keys import slot_choices
from zeropoint.kernels.manifest import Manifest, ValueKind
from zeropoint.kernels.manifest_reader import load_manifest
from zeropoint.rules import convolution, elementwise, embedding, indexing, joins, matmul, ranking, rows, views
from zeropoint.rules.linear import quantized as linear

FAMILIES = (linear, matmul, convolution, embedding, rows, ranking, indexing, views, joins, elementwise)
HALF = CompileOptions(compute_dtype="f16")
SHADERS = Path(__file__).parents[3] / "shaders"
Values = torch.Tensor | tuple[torch.Tensor, ...]


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: object) -> object:
        return self.function(*inputs)


def check(
    function: Callable[..., object] | nn.Module,
    *inputs: object,
    half: bool = True,
    options: CompileOptions | None = None,
    dynamic_shapes: object = None,
    calls: list[tuple[object, ...]] | None = None,
    dialects: tuple[str, ...] = DIALECTS,
) -> Compared:
    """Compares with eager PyTorch in both dialects, and with half storage too; every call must fit its manifest."""
    module = function if isinstance(function, nn.Module) else Function(function)
    shapes = dynamic_shapes if isinstance(function, nn.Module) or dynamic_shapes is None else (dynamic_shapes,)
    exports = {dialect: export(module, inputs, dialect, dynamic_shapes=shapes) for dialect in dialects}
    common = {"families": FAMILIES, "calls": calls, "dialects": dialects, "exports": exports}
    result = lower_and_compare(module, inputs, options=options, **common)
    for program in result.programs.values():
        check_variants(program)
    for dialect in dialects:
        left = _refusals(exports[dialect], options)
        assert not left, f"the partitioner would not take: {left}"
    if half:
        halved = lower_and_compare(module, inputs, options=HALF, rtol=1e-2, atol=1e-2, **common)
        for program in halved.programs.values():
            check_variants(program)
    return result


def refusals(
    function: Callable[..., object] | nn.Module,
    *inputs: object,
    options: CompileOptions | None = None,
    dynamic_shapes: object = None,
    dialect: str = "aten",
) -> list[str]:
    """Why operators stay outside, in graph order."""
    module = function if isinstance(function, nn.Module) else Function(function)
    shapes = dynamic_shapes if isinstance(function, nn.Module) or dynamic_shapes is None else (dynamic_shapes,)
    return _refusals(export(module, inputs, dialect, dynamic_shapes=shapes), options)


def _refusals(exported: ExportedProgram, options: CompileOptions | None) -> list[str]:
    with mock.patch.object(rules, "_FAMILIES", FAMILIES):
        reasons = match_program(exported, options or CompileOptions()).reasons
    return [reason for node, reason in reasons.items() if not is_arithmetic(node)]


def check_variants(program: Program) -> None:
    """Every call has a variant for its dtypes and exactly its kernel's attributes, of their kinds."""
    for call in program.calls:
        manifest, choices = _manifest(call.kernel)
        bound = {arg.slot: program.tensors[arg.tensor] for arg in call.args}
        key = tuple(
            (bound[slot.name].dtype, bound[slot.name].storage) if slot.name in bound else (DType.NONE, Storage.NONE)
            for slot in manifest.slots
        )
        assert bound.keys() <= {slot.name for slot in manifest.slots}, f"{call.name}: slots {sorted(bound)}"
        assert key in choices, f"{call.name}: {call.kernel} has no variant {key}"
        kinds = {attr.name: attr.kind for attr in manifest.attrs}
        assert {attr.name for attr in call.attrs} == kinds.keys(), f"{call.name}: {call.kernel}"
        for attr in call.attrs:
            wanted = kinds[attr.name] is ValueKind.FLOAT
            assert isinstance(attr.value, float) == wanted, f"{call.name}: {call.kernel}: {attr}"


@functools.cache
def _manifest(kernel: str) -> tuple[Manifest, frozenset[tuple[tuple[DType, Storage], ...]]]:
    manifest = load_manifest(SHADERS / f"{kernel}.toml")
    return manifest, frozenset(tuple((key.dtype, key.storage) for key in row) for row in slot_choices(manifest))

"""No orphans: every shader is in a manifest, every kernel has a reference, every variant is one a rule asks for."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import zeropoint
from tests.e2e.models import Activations, Forms, Weights
from tests.e2e.running import export, rows_of
from zeropoint import fusion, lowering, rules
from zeropoint.export.preprocess import lower_program
from zeropoint.kernels.build import plan
from zeropoint.kernels.manifest_reader import load_manifests
from zeropoint.references import find_reference

SHADERS = Path(__file__).parents[2] / "shaders"
MANIFESTS = load_manifests(SHADERS)
FORMS = (
    *(Activations(zero_point=dtype) for dtype in (torch.int8, torch.int32, torch.float32, torch.float16)),
    Activations(form="none"),
)

Bound = frozenset[tuple[str, str, str]]


def test_every_shader_is_an_algorithm() -> None:
    used = {algorithm.source for manifest in MANIFESTS for algorithm in manifest.algorithms}
    assert used == set(SHADERS.glob("*.comp"))


def test_every_kernel_has_a_reference() -> None:
    for manifest in MANIFESTS:
        assert callable(find_reference(manifest.name))


def test_every_kernel_is_called_by_a_rule_or_a_pass() -> None:
    """Its name is a string of some rule, fusion pass or what they lower with, or what an f-string of one can become."""
    patterns = set()
    for source in (
        path for package in (rules, fusion, lowering) for path in sorted(Path(package.__file__).parent.rglob("*.py"))
    ):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(p.value) if isinstance(p, ast.Constant) else r"\w*" for p in node.values]
                patterns.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                patterns.add(re.escape(node.value))
    every = re.compile("|".join(sorted(p for p in patterns if len(p.replace(r"\w*", "")) > 3)))
    assert [manifest.name for manifest in MANIFESTS if not every.fullmatch(manifest.name)] == []


class Everything(nn.Module):
    """Every activation form in front of every kind of weight, and of those whose kernel adds a residual.
    scales: those that f16 holds rounded, not, or exactly."""

    def __init__(self, scales: str) -> None:
        super().__init__()
        kinds = itertools.product((4, 8), ((False, 0.0), (True, 0.0), (True, 0.5)), (False, True))
        self.parts = nn.ModuleList(
            Forms(32, FORMS, Weights(n=3, group_size=32, bits=bits, asymmetric=asymmetric, fraction=part, bias=bias))
            for bits, (asymmetric, part), bias in kinds
        )
        self.added = nn.ModuleList(
            Forms(32, FORMS, Weights(n=32, group_size=32, bits=bits, asymmetric=False, fraction=0.0, bias=False))
            for bits in (4, 8)
        )
        for name, buffer in self.named_buffers():
            if name.endswith("scales") and scales == "small":
                buffer.mul_(1e-6)
            if name.endswith("scales") and scales == "exact":
                buffer.copy_(buffer.half())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [y for part in self.parts for y in part(x)] + [x + y for part in self.added for y in part(x)]


def bound_slots(program: zeropoint.Program) -> set[tuple[str, Bound]]:
    """For each call the kernel, and dtype and storage of each slot that is bound."""
    found = set()
    for call in program.calls:
        tensors = {arg.slot: program.tensors[arg.tensor] for arg in call.args}
        slots = frozenset((slot, t.dtype.value, t.storage.value) for slot, t in tensors.items())
        found.add((call.kernel, slots))
    return found


def has_sums_that_are_left_out(slots: Bound) -> bool:
    """What Programs have that were exported before the sums of symmetric weights were left out beside int8."""
    bound = {slot for slot, _, _ in slots}
    return ("zp", "i8", "buffer") in slots and "w_sum" in bound and "w_zp" not in bound


@pytest.mark.slow
def test_every_variant_of_the_quantized_linears_is_asked_for_by_a_rule() -> None:
    asked: set[tuple[str, Bound]] = set()
    for scales in ("rounded", "small", "exact"):
        exported = export(Everything(scales), rows_of(32, 4))
        for storage, compute, zero_point in itertools.product(
            ("buffer", "image"), ("model", "f16"), ("model", "compute")
        ):
            options = zeropoint.CompileOptions(
                qparams_storage=storage, compute_dtype=compute, float_zero_point=zero_point
            )
            asked |= bound_slots(lower_program(exported, options)[0])
    asked = {item for item in asked if item[0] != "elementwise_binary"}  # adds a residual where the linear does not
    offered = {
        (
            job.key.kernel,
            frozenset((s.slot, s.dtype.value, s.storage.value) for s in job.key.slots if s.dtype.value != "none"),
        )
        for job in plan(MANIFESTS)
        if job.key.kernel in {kernel for kernel, _ in asked}
    }
    assert asked <= offered
    older = {item for item in offered if has_sums_that_are_left_out(item[1])}
    assert len(older) == 12
    assert sorted(map(str, offered - asked - older)) == []
    assert sorted(map(str, older & asked)) == []

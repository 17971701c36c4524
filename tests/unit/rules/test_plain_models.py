"""Whole models by the rules of single operators alone: none may be left, whatever the fusing rules do not take."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from tests.edge import edge_program
from tests.unit.rules import general, models, whole
from zeropoint import CompileOptions, rules
from zeropoint.export.matching import is_arithmetic, match_program
from zeropoint.lowering.graph import op_name
from zeropoint.lowering.positions import ITEMS


@pytest.mark.parametrize(
    "name",
    ["llama", "vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "executorch_llama", "bert"))],
)
def test_every_operator_has_a_rule(name: str) -> None:
    with mock.patch.object(rules, "_FAMILIES", general.FAMILIES):
        reasons = match_program(edge_program(models.BUILDERS[name]()), CompileOptions()).reasons
    assert not {
        node.name: reason for node, reason in reasons.items() if not is_arithmetic(node) and op_name(node) not in ITEMS
    }


@pytest.mark.parametrize(
    ("compute_dtype", "error"), [("model", 1e-6), pytest.param("f16", 5e-3, marks=pytest.mark.slow)]
)
def test_a_decoder_with_its_cache(compute_dtype: str, error: float) -> None:
    torch.manual_seed(0)
    calls = whole.decoding(5, 1, 1)
    with mock.patch.object(rules, "_FAMILIES", general.FAMILIES):
        result = whole.compare_whole(models.gemma2(), "edge", calls, CompileOptions(compute_dtype=compute_dtype))
    assert result.error <= error
    states = [index for index, tensor in enumerate(result.program.tensors) if "keys" in tensor.name]
    written = [call for call in result.program.calls if call.kernel == "scatter"]
    assert len(written) == 4  # keys and values of two layers, in place
    assert all(call.kernel != "strided_copy" for call in result.program.calls if call.tensor("y") in states)

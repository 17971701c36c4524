"""The warning of a graph break, and the report of what each node became."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.e2e.running import export, lower
from tests.edge import edge_program
from tests.unit.rules import models
from zeropoint import GraphBreakWarning, explain
from zeropoint.export.graph_breaks import elements_moved


class Breaks(nn.Module):
    """Four operators that no rule takes, of 2, 3, 4 and 5 tensors as large as x, between some that one takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tan(x * 2.0)
        y = torch.fmod(y, x) * 0.5
        y = torch.addcmul(y, x, x + 1.0) * 3.0
        return torch.atan2(torch.asinh(y), x) + x


def test_the_three_most_expensive_reasons_are_told() -> None:
    with pytest.warns(GraphBreakWarning) as found:
        lower(export(Breaks(), torch.randn(3, 16)))
    (text,) = [str(item.message) for item in found if item.category is GraphBreakWarning]
    assert text.startswith("zeropoint: ")
    assert " nodes stay on the CPU beside " in text
    assert text.endswith("zeropoint.explain(program) lists all")
    costs = [int(part.split(" elements)")[0].rsplit(" ", 1)[1]) for part in text.split("; ")]
    assert len(costs) == 3
    assert costs == sorted(costs, reverse=True)


def test_a_whole_program_is_not_warned_of() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        lower(export(nn.Sequential(nn.Linear(16, 16), nn.GELU()), torch.randn(3, 16)))
    assert not [item for item in found if item.category is GraphBreakWarning]


def test_elements_of_dynamic_sizes_are_those_of_the_trace() -> None:
    exported = torch.export.export(
        Breaks(), (torch.randn(5, 16),), dynamic_shapes=({0: Dim("n", max=9)},)
    ).run_decompositions({})
    (tangent,) = [node for node in exported.graph.nodes if "tan" == node.name]
    assert elements_moved(tangent) == 2 * 5 * 16


def test_the_report_names_calls_fusions_and_places() -> None:
    """Every node of a decoder has one of them, and the calls are those of the Program."""
    rows = explain(edge_program(models.llama())).rows
    assert not [row for row in rows if row.partition != 0]
    outcomes = {row.op: {other.outcome for other in rows if other.op == row.op} for row in rows}
    assert outcomes["aten.rsqrt.default"] == {f"fused into {row.node}" for row in rows if row.outcome == "rms_norm"}
    assert "no call" in outcomes["aten.view.default"]
    calls = [row.outcome for row in rows if not row.outcome.startswith(("fused", "no call", "part of"))]
    assert calls.count("attention, or rotary_attention") == 2
    assert calls.count("gated_activation") == 2
    assert calls.count("rotary_update_cache") == 2

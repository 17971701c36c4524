"""Buffers that a method overwrites and never reads are not written; the others are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram, export

from tests.edge import edge_program
from zeropoint.export.passes.drop_unread_buffers import drop_unread_buffers


class Counters(nn.Module):
    """`given` is overwritten before it is read; `kept` counts on; `swapped` is overwritten and then read as it was."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("given", "kept", "swapped"):
            self.register_buffer(name, torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.swapped.clone()
        self.swapped.copy_(x)
        self.given.copy_(x)
        self.given.add_(1)
        self.kept.add_(x)
        return self.given * self.kept + before


def functional(dialect: str) -> ExportedProgram:
    exported = export(Counters(), (torch.ones(1),))
    return exported.run_decompositions({}) if dialect == "aten" else edge_program(exported)


@pytest.mark.parametrize("dialect", ["aten", "edge"])
def test_what_nobody_reads_is_not_written(dialect: str) -> None:
    program = functional(dialect)
    assert sorted(program.graph_signature.buffers_to_mutate.values()) == ["given", "kept", "swapped"]
    drop_unread_buffers(program)
    assert sorted(program.graph_signature.buffers_to_mutate.values()) == ["kept", "swapped"]
    module, eager = program.module(), Counters()
    for value in (2.0, 3.0, 5.0):
        x = torch.tensor([value])
        torch.testing.assert_close(module(x), eager(x))

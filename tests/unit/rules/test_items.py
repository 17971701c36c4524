"""Positions read with item(): part of the delegate where they only count tokens, and sizes where they do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.unit.fusion.test_rope_cache import turned_pairs
from tests.unit.rules.lowered import export
from zeropoint import CompileOptions, Program, ProgramError
from zeropoint.export.matching import match_program
from zeropoint.export.preprocess import lower_program
from zeropoint.lowering.graph import op_name
from zeropoint.lowering.positions import ITEMS
from zeropoint.verification.interpreter import run_reference

Tensor = torch.Tensor
PLACES, WIDTH = 24, 8


class Model(nn.Module):
    """A rotation by rows of a constant, and a cache, both from a position on. also: what else reads it."""

    def __init__(self, also: str = "") -> None:
        super().__init__()
        self.also = also
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.randn(PLACES, WIDTH, generator=torch.Generator().manual_seed(len(name))))
        self.register_buffer("cache", torch.zeros(1, 2, PLACES, 2 * WIDTH))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        first, tokens = position[0].item(), x.shape[1]
        torch._check(first >= 0)
        torch._check(first + tokens <= PLACES)
        cos, sin = (table.narrow(0, first, tokens)[None, :, None] for table in (self.cos, self.sin))
        y = turned_pairs(x.view(1, tokens, 2, 2 * WIDTH), cos, sin).transpose(1, 2)
        written = self.cache.index_copy_(2, torch.arange(tokens) + first, y)
        match self.also:
            case "rows":
                return written + 1.0, self.cos.narrow(0, first, tokens) * 2.0
            case "number":
                return written + 1.0, x * first
            case "table":
                return written + 1.0, cos * x.view(1, tokens, -1, WIDTH)
            case "places":
                return written + 1.0, torch.arange(tokens) + first
        return written + 1.0


def lowered(model: nn.Module, dialect: str) -> tuple[Program, dict[str, bytes]]:
    inputs = torch.randn(1, 3, 4 * WIDTH), torch.tensor([4])
    return lower_program(export(model, inputs, dialect), CompileOptions())


@pytest.mark.parametrize("dialect", ["aten", "edge"])
def test_a_position_read_with_item_is_checked(dialect: str) -> None:
    """Rows of the tables and places of the cache, from the position on for all tokens."""
    program, constants = lowered(Model(), dialect)
    found = [(check.input, check.min.base, check.max.base, check.what) for check in program.checks]
    assert found == [(1, 0, PLACES - 3, "places along dimension 0 of cos")]
    assert program.faults == -1
    for bad in (PLACES - 2, -1):
        with pytest.raises(
            ProgramError, match=rf"^input\[1\] position: element 0 is {bad}; places along .* are 0 to 21$"
        ):
            run_reference(program, constants, [torch.randn(1, 3, 4 * WIDTH), torch.tensor([bad])])


@pytest.mark.parametrize("dialect", ["aten", "edge"])
def test_a_position_is_read_on_the_device(dialect: str) -> None:
    program, constants = lowered(Model(), dialect)
    assert [call.kernel for call in program.calls if call.kernel != "elementwise_unary"] == [
        "rotary_embedding",
        "update_cache",
    ]
    assert not program.symbols
    eager, states = Model(), {}
    for position in (4, 0, 21):
        inputs = [torch.randn(1, 3, 4 * WIDTH), torch.tensor([position])]
        (actual,) = run_reference(program, constants, inputs, states).outputs
        torch.testing.assert_close(actual, eager(*inputs))


@pytest.mark.parametrize("also", ["rows", "number", "table", "places"])
def test_a_position_that_something_else_reads_comes_from_outside(also: str) -> None:
    inputs = torch.randn(1, 3, 4 * WIDTH), torch.tensor([4])
    matching = match_program(export(Model(also), inputs, "aten"), CompileOptions())
    (reason,) = [reason for node, reason in matching.reasons.items() if op_name(node) in ITEMS]
    assert "is a size for" in reason
    assert {"aten.index_copy.default", "aten.slice.Tensor"} <= {op_name(node) for node in matching.lowered}

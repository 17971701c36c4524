"""Gated activations in one pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

from tests.unit.rules.lowered import DIALECTS, lower_and_compare
from zeropoint.kernels._generated.signatures import GateOp

Function = Callable[[torch.Tensor], torch.Tensor]
S = {1: Dim("s", min=1, max=9)}
GATES: dict[str, tuple[Function, GateOp]] = {
    "silu": (functional.silu, GateOp.SILU),
    "sigmoid_times_x": (lambda x: x * torch.sigmoid(x), GateOp.SILU),
    "gelu": (functional.gelu, GateOp.GELU),
    "gelu_tanh": (lambda x: functional.gelu(x, approximate="tanh"), GateOp.GELU_TANH),
    "relu": (torch.relu, GateOp.RELU),
    "sigmoid": (torch.sigmoid, GateOp.SIGMOID),
}


class Gated(nn.Module):
    def __init__(self, function: Function, *, last: bool = False) -> None:
        super().__init__()
        self.function, self.last = function, last

    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return up * self.function(gate) if self.last else self.function(gate) * up


@pytest.mark.parametrize(("name", "last"), [*((name, False) for name in GATES), ("silu", True)])
def test_gates(name: str, last: bool) -> None:
    function, op = GATES[name]
    inputs = torch.randn(2, 3, 20), torch.randn(2, 3, 20)
    longer = torch.randn(2, 7, 20), torch.randn(2, 7, 20)
    result = lower_and_compare(Gated(function, last=last), inputs, dynamic_shapes=(S, S), calls=[longer])
    assert result.kernels() == ["gated_activation"]
    for program in result.programs.values():
        assert {attr.name: attr.value for attr in program.calls[0].attrs}["op"] == op


def test_halves_of_a_merged_projection_are_not_copied() -> None:
    class Merged(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate, up = x.chunk(2, dim=-1)
            return up * functional.silu(gate)

    result = lower_and_compare(
        Merged(), (torch.randn(2, 3, 40),), dynamic_shapes=(S,), calls=[(torch.randn(2, 9, 40),)]
    )
    assert result.kernels() == ["gated_activation"]


def test_uneven_rows_are_copied() -> None:
    class Turned(nn.Module):
        def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
            return functional.silu(gate.transpose(1, 2)) * up

    result = lower_and_compare(Turned(), (torch.randn(2, 3, 5), torch.randn(2, 5, 3)))
    assert "gated_activation" in result.kernels()


def test_silu_alone_is_one_call() -> None:
    class Silu(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(x) * x

    assert lower_and_compare(Silu(), (torch.randn(2, 3, 5),)).kernels() == ["elementwise_unary"]


def test_products_that_broadcast_or_have_no_activation_stay_products() -> None:
    class Product(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return functional.silu(x) * y[:, :1], x * y, torch.tanh(x) * y, x * 2

    result = lower_and_compare(Product(), (torch.randn(2, 3, 5), torch.randn(2, 3, 5)))
    for dialect in DIALECTS:
        assert "gated_activation" not in result.kernels(dialect)

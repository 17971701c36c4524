"""Indexing by places that count up is a view; by any others it is left to the general rules."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim

from tests.unit.rules.lowered import lower_and_compare

Tensor = torch.Tensor


class Counted(nn.Module):
    """As models vectorize a padding mask: x[batch, key] for every batch entry, head, query and key."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        rows, columns = torch.arange(x.shape[0]), torch.arange(x.shape[1])
        spread = x[rows[:, None, None, None], columns[None, None, None, :]]
        return spread * 2.0, x[torch.arange(1, 2)[:, None] + torch.arange(1), torch.arange(0, 3, 2)] * 2.0


def test_places_that_count_up_are_a_view() -> None:
    shapes = ({1: Dim("s", min=3, max=9)},)
    result = lower_and_compare(Counted(), (torch.randn(2, 5),), dynamic_shapes=shapes, calls=[(torch.randn(2, 9),)])
    for dialect in result.programs:
        assert not {"gather", "arange"} & set(result.kernels(dialect))


class Given(nn.Module):
    def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        return x[places], x[torch.arange(3).flip(0)], x[:, places]


def test_other_places_are_gathered() -> None:
    inputs = torch.randn(4, 5), torch.tensor([3, 0, 1])
    result = lower_and_compare(Given(), inputs, dialects=("aten",))
    assert "gather" in result.kernels()

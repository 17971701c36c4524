"""Rotary embeddings: halves and pairs, whole and partial, tables computed, picked and made at export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.unit.rules.lowered import Compared, lower_and_compare

HEADS, HEAD_DIM = 4, 16
S = {1: Dim("s", min=1, max=9)}
Tensor = torch.Tensor
Rotate = Callable[[Tensor, Tensor, Tensor], Tensor]


def half_turned(x: Tensor) -> Tensor:
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-second, first), -1)


def by_head(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Hugging Face's: x [B, H, S, D], tables [B, S, D]."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return x * cos + half_turned(x) * sin


def partial(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = cos.shape[-1]
    return torch.cat([by_head(x[..., :width], cos, sin), x[..., width:]], -1)


def by_token(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, S, H, D]; the factors and the terms the other way around."""
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    return sin * half_turned(x) + cos * x


def pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """ExecuTorch's: x [B, S, H, D], tables [B, S, D / 2]."""
    real, imaginary = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    turned = [real * cos - imaginary * sin, real * sin + imaginary * cos]
    return torch.stack(turned, dim=-1).flatten(3).type_as(x)


class Rotary(nn.Module):
    """q of a projection [B, S, H * D], turned by tables [B or 1, S, width]."""

    def __init__(self, rotate: Rotate, *, transpose: bool) -> None:
        super().__init__()
        self.rotate, self.transpose = rotate, transpose

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], HEADS, HEAD_DIM)
        return self.rotate(heads.transpose(1, 2) if self.transpose else heads, cos, sin)


def attrs_of(result: Compared) -> dict[str, object]:
    return {attr.name: attr.value for attr in result.programs["edge"].calls[-1].attrs}


@pytest.mark.parametrize(
    ("rotate", "transpose", "width", "batch", "table_batch"),
    [
        (by_head, True, 16, 1, 1),
        (by_head, True, 16, 2, 1),
        (by_head, True, 16, 2, 2),
        (partial, True, 8, 2, 1),
        (by_token, False, 16, 2, 2),
        (pairs, False, 8, 2, 1),
    ],
)
def test_computed_tables(rotate: Rotate, transpose: bool, width: int, batch: int, table_batch: int) -> None:
    def inputs(tokens: int) -> tuple[Tensor, ...]:
        tables = (torch.randn(table_batch, tokens, width) for _ in range(2))
        return torch.randn(batch, tokens, HEADS * HEAD_DIM), *tables

    model = Rotary(rotate, transpose=transpose)
    result = lower_and_compare(model, inputs(3), dynamic_shapes=(S, S, S), calls=[inputs(1), inputs(9)])
    assert result.kernels() == ["rotary_embedding"]
    attrs = attrs_of(result)
    assert attrs["table_rows"] == table_batch
    assert attrs["x_layout"] == 1
    assert attrs["y_layout"] == int(not transpose)
    assert attrs["interleaved"] == int(rotate is pairs)


def test_one_token() -> None:
    inputs = torch.randn(1, 1, HEADS * HEAD_DIM), torch.randn(1, 1, HEAD_DIM), torch.randn(1, 1, HEAD_DIM)
    assert lower_and_compare(Rotary(by_head, transpose=True), inputs).kernels() == ["rotary_embedding"]


class Picked(nn.Module):
    """Tables by position out of constants, as ExecuTorch's models pick them."""

    def __init__(self, rotate: Rotate, *, consecutive: bool) -> None:
        super().__init__()
        self.rotate, self.consecutive = rotate, consecutive
        self.register_buffer("cos", torch.randn(40, HEAD_DIM // 2))
        self.register_buffer("sin", torch.randn(40, HEAD_DIM // 2))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        places = torch.arange(x.shape[1]) + position[0] if self.consecutive else position
        heads = x.view(*x.shape[:2], HEADS, HEAD_DIM)
        return self.rotate(heads, self.cos[places].unsqueeze(0), self.sin[places].unsqueeze(0))


@pytest.mark.parametrize("consecutive", [False, True])
def test_rows_of_a_constant_table_are_not_gathered(consecutive: bool) -> None:
    inputs = torch.randn(1, 3, HEADS * HEAD_DIM), torch.tensor([7, 30, 2])
    result = lower_and_compare(Picked(pairs, consecutive=consecutive), inputs)
    assert result.kernels() == ["rotary_embedding"]
    assert attrs_of(result)["table_rows"] == 0
    assert attrs_of(result)["position_mode"] == int(not consecutive)


class Computed(nn.Module):
    """Angles of positions, as Hugging Face computes them; with a cache at the same positions or with none."""

    def __init__(self, *, cached: bool, scale: float = 1.0, shifted: bool = False) -> None:
        super().__init__()
        self.cached, self.scale, self.shifted = cached, scale, shifted
        self.register_buffer("frequencies", 10.0 ** -torch.linspace(0, 2, HEAD_DIM // 2), persistent=False)
        self.register_buffer("cache", torch.zeros(1, HEADS, 40, HEAD_DIM), persistent=False)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        places = torch.arange(x.shape[1]) + (position[0] if self.cached else 0)
        angles = (places + 3 if self.shifted else places)[None, :, None].float() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale
        y = by_head(x.view(*x.shape[:2], HEADS, HEAD_DIM).transpose(1, 2), cos, sin)
        return self.cache.index_copy_(2, places, y).clone() if self.cached else y


@pytest.mark.parametrize("cached", [False, True])
def test_tables_are_made_at_export(cached: bool) -> None:
    def inputs(tokens: int, first: int) -> tuple[Tensor, ...]:
        return torch.randn(1, tokens, HEADS * HEAD_DIM), torch.tensor([first])

    calls = [inputs(9, 5), inputs(1, 39)]
    model = Computed(cached=cached, scale=0.7)
    result = lower_and_compare(model, inputs(3, 0), dynamic_shapes=(S, {}), calls=calls)
    for dialect, program in result.programs.items():
        assert "cos" not in result.kernels(dialect)
        assert set(result.kernels(dialect)) <= {"rotary_embedding", "update_cache", "strided_copy"}
        rotary = next(call for call in program.calls if call.kernel == "rotary_embedding")
        table = program.tensors[rotary.tensor("cos_table")]
        assert [dim.base for dim in table.dims] == [40 if cached else 9, HEAD_DIM // 2]


def test_tables_of_other_positions_than_the_cache_s_are_computed() -> None:
    """Nothing says then how many rows a table would need."""
    inputs = torch.randn(1, 3, HEADS * HEAD_DIM), torch.tensor([4])
    result = lower_and_compare(Computed(cached=True, shifted=True), inputs, dialects=("aten",))
    rotary = next(call for call in result.programs["aten"].calls if call.kernel == "rotary_embedding")
    assert {attr.name: attr.value for attr in rotary.attrs}["table_rows"] == 1


NO_ROTATIONS: dict[str, Rotate] = {
    "no_minus": lambda x, c, s: x * c.unsqueeze(1) + torch.cat((x[..., 8:], x[..., :8]), -1) * s.unsqueeze(1),
    "uneven": lambda x, c, s: x * c.unsqueeze(1) + torch.cat((-x[..., 4:], x[..., :4]), -1) * s.unsqueeze(1),
    "another_x": lambda x, c, s: (x + 1) * c.unsqueeze(1) + half_turned(x) * s.unsqueeze(1),
}


@pytest.mark.parametrize("form", NO_ROTATIONS)
def test_what_is_no_rotation_stays_a_sum(form: str) -> None:
    inputs = torch.randn(1, 3, HEADS * HEAD_DIM), torch.randn(1, 3, HEAD_DIM), torch.randn(1, 3, HEAD_DIM)
    result = lower_and_compare(Rotary(NO_ROTATIONS[form], transpose=True), inputs, dialects=("aten",))
    assert "rotary_embedding" not in result.kernels()

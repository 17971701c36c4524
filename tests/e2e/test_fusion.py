"""Exported graphs with fusion and without: the same results, whatever lies between the calls that fuse.

Lowered twice and run at several lengths, on the algorithms that a GPU takes.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.e2e.models import Activations, QuantizedLinear, Weights
from tests.e2e.running import Direct, relative_rms
from zeropoint import CompileOptions

WIDTH, LONGEST = 64, 8
LENGTHS = (1, 3, 1, LONGEST)
SAME = 1e-5  # of a driver that contracts sums in one of two shaders

quantized = Activations()


@pytest.fixture(autouse=True)
def gpu_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")


def linear(n: int = WIDTH, seed: int = 0, **more: bool | int) -> QuantizedLinear:
    return QuantizedLinear(WIDTH, Weights(n=n, group_size=32, **more), seed=seed)  # type: ignore[arg-type]


def check(module: nn.Module, *, placed: bool = False) -> set[str]:
    """The kernels of all runs with fusion. placed: the module takes the place of the first row and a mask as well."""
    n = torch.export.Dim("n", min=1, max=LONGEST)
    shapes = ({1: n}, {}, {2: n}) if placed else ({1: n},)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        exported = torch.export.export(module.eval(), inputs(4, 0, placed), dynamic_shapes=shapes, strict=False)
    program = exported.run_decompositions({})
    plain, fused = (Direct(program, CompileOptions(fusions=name)) for name in ("none", "all"))
    kernels, first = set(), 0
    for length in LENGTHS:
        given = inputs(length, first, placed)
        for wanted, found in zip(plain(*given), fused(*given), strict=True):
            assert relative_rms(found, wanted) <= SAME, f"{length} rows"
        kernels |= set(fused.kernels())
        first += length
    return kernels


def inputs(length: int, first: int, placed: bool) -> tuple[torch.Tensor, ...]:
    """Rows, and with them the place of the first one and which places each of them sees."""
    x = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(length))
    mask = torch.arange(PLACES) <= first + torch.arange(length)[:, None]
    return (x, torch.tensor([first]), mask[None, None]) if placed else (x,)


class Two(nn.Module):
    """Two linears of one quantized activation, and what becomes of their results."""

    def __init__(self, end: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.end = linear(seed=1), linear(seed=2), end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = quantized(x)
        return self.end(x, self.first(rows), self.second(rows))


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda x, a, b: a + b, id="sum"),
        pytest.param(lambda x, a, b: a + (x + b), id="sum, the later one first"),
        pytest.param(lambda x, a, b: (x + a) + b, id="sum, one after the other"),
        pytest.param(lambda x, a, b: a.flatten(1) + x.flatten(1), id="rows side by side"),
        pytest.param(lambda x, a, b: a + x[:, -1:] * b, id="the last row to all"),
        pytest.param(lambda x, a, b: a.unflatten(-1, (4, 16)).mT + b.unflatten(-1, (4, 16)).mT, id="transposed alike"),
    ],
)
def test_additions(end: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    assert "row_linear" in check(Two(end))


class ParallelBlock(nn.Module):
    """Attention and a gated layer of one quantized activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(linear(seed=seed) for seed in range(3))
        self.gate, self.up = linear(width, 3), linear(width, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = quantized(x)
        q, k, v = (head(rows).unflatten(-1, (4, 16)).transpose(1, 2) for head in self.heads)
        gated = functional.silu(self.gate(rows)) * self.up(rows)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return attended.transpose(1, 2).flatten(2), gated


@pytest.mark.parametrize("width", [32, 33])
def test_attention_beside_linears_of_any_width(width: int) -> None:
    assert "attention" in check(ParallelBlock(width))


class CachedLayer(nn.Module):
    """From a merged projection to attention over caches. What it is placed by serves every layer of a graph."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, KV_HEADS, PLACES, HEAD))
        angles = torch.arange(PLACES)[:, None] * torch.cat([torch.linspace(0.1, 1, HEAD // 2)] * 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, row: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        places = torch.arange(row.shape[1]) + position[0]
        cos, sin = self.cos[places][None, None], self.sin[places][None, None]
        q, k, v = (item.unflatten(-1, (-1, HEAD)).transpose(1, 2) for item in row.split([WIDTH, 16, 16], dim=-1))
        q, k = (item * cos + torch.cat((-item[..., 4:], item[..., :4]), -1) * sin for item in (q, k))
        keys, values = self.keys.index_copy_(2, places, k), self.values.index_copy_(2, places, v)
        seen = mask if self.kind == "masked" else torch.arange(PLACES) <= places[:, None]
        y = functional.scaled_dot_product_attention(q, keys, values, seen, enable_gqa=True)
        return y.transpose(1, 2).flatten(2)


PLACES, KV_HEADS, HEAD = 32, 2, 8
KINDS = ("linear", "linear", "linear", "halves", "norm", "norm", "add", "add", "gate", "last")
ASIDE = ("masked", "masked", "causal", "place", "seen", "narrow")


class RandomGraph(nn.Module):
    """Additions, norms, gates, slices and linears of recent values, chosen by a seed."""

    kinds, n_returned = KINDS, 1

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose = random.Random(seed)
        self.parts, self.plan = nn.ModuleList(), list[tuple[str, int, int]]()
        for index in range(choose.randint(5, 12)):
            kind = choose.choice(self.kinds)
            self.plan.append((kind, choose.randint(max(0, index - 2), index), choose.randint(0, index)))
            bits, bias, asymmetric = choose.choice([4, 4, 8]), choose.random() < 0.3, choose.random() < 0.2
            if kind == "norm":
                self.parts.append(nn.RMSNorm(WIDTH, eps=1e-6, elementwise_affine=choose.random() < 0.7))
            else:
                width = {"halves": 2 * WIDTH, "masked": WIDTH + 32, "causal": WIDTH + 32}.get(kind, WIDTH)
                self.parts.append(linear(width, index, bits=bits, bias=bias, asymmetric=asymmetric))
        self.layers = nn.ModuleDict(
            {str(i): CachedLayer(kind) for i, (kind, *_) in enumerate(self.plan) if kind in ASIDE}
        )
        self.shared = choose.random() < 0.7
        self.returned = [choose.randint(1, len(self.plan)) for _ in range(self.n_returned)]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.compute(x)

    def compute(self, x: torch.Tensor, *placed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, rows = [x], dict[int, torch.Tensor]()
        for index, ((kind, first, second), part) in enumerate(zip(self.plan, self.parts, strict=True)):
            a, b = values[first], values[second]
            if kind in ("linear", "halves", "masked", "causal"):
                rows[first] = rows[first] if self.shared and first in rows else quantized(a)
                y = part(rows[first])
                if kind in ("masked", "causal"):
                    y = self.layers[str(index)](y, *placed)
                values.append(functional.silu(y[..., :WIDTH]) * y[..., WIDTH:] if kind == "halves" else y)
            elif kind == "norm":
                values.append(part(a))
            elif kind == "gate":
                values.append(functional.gelu(a) * b)
            elif kind == "place":
                values.append(a + placed[0].float() / PLACES)
            elif kind == "seen":
                values.append(a * placed[1][0, 0].float().mean(-1, keepdim=True))
            elif kind == "narrow":
                values.append(functional.silu(a[..., :32]).repeat(1, 1, 2) * b)
            else:
                values.append(a + (b[:, -1:] if kind == "last" else b))
        return values[-1], *(values[index] for index in self.returned)


class PlacedGraph(RandomGraph):
    """With layers that have caches; their positions, masks and parts of rows are used beside them as well."""

    kinds, n_returned = (*KINDS, *ASIDE), 3

    def forward(self, x: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.compute(x, position, mask)


FAST, FAST_PLACED = 4, 2  # graphs in `make test`


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= FAST)) for seed in range(120)])
def test_random_graphs(seed: int) -> None:
    check(RandomGraph(seed))


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= FAST_PLACED)) for seed in range(120)]
)
def test_random_graphs_of_placed_layers(seed: int) -> None:
    check(PlacedGraph(seed), placed=True)


def test_layers_that_are_handed_their_places() -> None:
    """As older transformers export them: one mask and one position for all layers. Each layer of one token fuses."""

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(linear(WIDTH + 32, seed) for seed in range(3))
            self.layers = nn.ModuleList(CachedLayer("masked") for _ in range(3))

        def forward(self, x: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            for part, layer in zip(self.parts, self.layers, strict=True):
                x = x + layer(part(quantized(x)), position, mask)
            return x, x + position

    assert "rotary_attention" in check(Layers(), placed=True)

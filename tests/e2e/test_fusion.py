"""Exported graphs with fusion and without: the same results, whatever lies between the calls that fuse.

Lowered twice and run at several lengths, on the algorithms that a GPU takes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.e2e.models import Activations, QuantizedLinear, Weights
from tests.e2e.running import Direct, export, relative_rms
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


def check(module: nn.Module) -> set[str]:
    """The kernels of all runs with fusion."""
    program = export(module, torch.randn(1, 4, WIDTH), max_sizes={1: LONGEST}).run_decompositions({})
    plain, fused = (Direct(program, CompileOptions(fusions=name)) for name in ("none", "all"))
    kernels = set()
    for length in LENGTHS:
        x = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(length))
        for wanted, found in zip(plain(x), fused(x), strict=True):
            assert relative_rms(found, wanted) <= SAME, f"{length} rows"
        kernels |= set(fused.kernels())
    return kernels


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
    assert "row_linear_q4gsw" in check(Two(end))


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


KINDS = ("linear", "linear", "linear", "halves", "norm", "norm", "add", "add", "gate", "last")


class RandomGraph(nn.Module):
    """Additions, norms, gates, slices and linears of recent values, chosen by a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose = random.Random(seed)
        self.parts, self.plan = nn.ModuleList(), list[tuple[str, int, int]]()
        for index in range(choose.randint(5, 12)):
            kind = choose.choice(KINDS)
            self.plan.append((kind, choose.randint(max(0, index - 2), index), choose.randint(0, index)))
            bits, bias, asymmetric = choose.choice([4, 4, 8]), choose.random() < 0.3, choose.random() < 0.2
            if kind == "norm":
                self.parts.append(nn.RMSNorm(WIDTH, eps=1e-6, elementwise_affine=choose.random() < 0.7))
            else:
                width = 2 * WIDTH if kind == "halves" else WIDTH
                self.parts.append(linear(width, index, bits=bits, bias=bias, asymmetric=asymmetric))
        self.shared = choose.random() < 0.7
        self.returned = choose.randint(1, len(self.plan))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, rows = [x], dict[int, torch.Tensor]()
        for (kind, first, second), part in zip(self.plan, self.parts, strict=True):
            a, b = values[first], values[second]
            if kind in ("linear", "halves"):
                rows[first] = rows[first] if self.shared and first in rows else quantized(a)
                y = part(rows[first])
                values.append(functional.silu(y[..., :WIDTH]) * y[..., WIDTH:] if kind == "halves" else y)
            elif kind == "norm":
                values.append(part(a))
            elif kind == "gate":
                values.append(functional.gelu(a) * b)
            else:
                values.append(a + (b[:, -1:] if kind == "last" else b))
        return values[-1], values[self.returned]


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 4)) for seed in range(120)])
def test_random_graphs(seed: int) -> None:
    check(RandomGraph(seed))

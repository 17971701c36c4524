"""Cache writes in place: every way in which models write them, and when a copy is needed after all."""

from __future__ import annotations

import pytest
import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  # registers torch.ops.llama
from torch import nn
from torch.export import Dim

from tests.unit.rules.lowered import Compared, lower_and_compare
from zeropoint.rules.attention import caches

Tensor = torch.Tensor
KV_HEADS, HEAD_DIM, PLACES = 2, 16, 24
S = {1: Dim("s", min=1, max=9)}


class Cache(nn.Module):
    """New heads [B, S, kv_heads * D] into a cache, of which the caller sees the sum. by: how it is written."""

    def __init__(self, by: str, *, batch: int = 1) -> None:
        super().__init__()
        self.by, self.by_token = by, by.endswith("by_token")
        middle = (PLACES, KV_HEADS) if self.by_token else (KV_HEADS, PLACES)
        self.register_buffer("cache", torch.zeros(batch, *middle, HEAD_DIM))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        new = x.view(*x.shape[:2], KV_HEADS, HEAD_DIM)
        new = new if self.by_token else new.transpose(1, 2)
        places = position if "each" in self.by else torch.arange(x.shape[1]) + position[0]
        if "copy" in self.by:
            self.cache.index_copy_(1 if self.by_token else 2, places, new)
        elif self.by_token:
            self.cache[:, places] = new
        else:
            self.cache[:, :, places] = new
        return self.cache.sum(-1)


def inputs(tokens: int, *positions: int, batch: int = 1) -> tuple[Tensor, ...]:
    return torch.randn(batch, tokens, KV_HEADS * HEAD_DIM), torch.tensor(positions)


def check_update(result: Compared, *, layout: int, mode: int) -> None:
    """One write, and no copy as large as the cache."""
    for dialect, program in result.programs.items():
        assert result.kernels(dialect).count("update_cache") == 1
        assert not {"scatter", "strided_copy"} & set(result.kernels(dialect))
        update = next(call for call in program.calls if call.kernel == "update_cache")
        attrs = {attr.name: attr.value for attr in update.attrs}
        assert (attrs["cache_layout"], attrs["position_mode"]) == (layout, mode)


@pytest.mark.parametrize("by", ["copy", "put", "copy_by_token", "put_by_token"])
def test_tokens_that_follow_each_other(by: str) -> None:
    calls = [inputs(9, 3), inputs(1, 12)]
    result = lower_and_compare(Cache(by), inputs(3, 0), dynamic_shapes=(S, {}), calls=calls)
    check_update(result, layout=int("token" in by), mode=caches.FROM_FIRST)


@pytest.mark.parametrize("by", ["copy_each", "put_each"])
def test_any_places(by: str) -> None:
    result = lower_and_compare(Cache(by, batch=2), inputs(3, 7, 2, 20, batch=2), calls=[inputs(3, 0, 1, 2, batch=2)])
    check_update(result, layout=0, mode=caches.EACH)


def test_one_token_is_written_at_its_position() -> None:
    result = lower_and_compare(Cache("put_each"), inputs(1, 5), calls=[inputs(1, 6)])
    check_update(result, layout=0, mode=caches.FROM_FIRST)


class Read(Cache):
    """Reads the cache as it was before."""

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        before = self.cache * 1.0
        written = self.cache.index_copy(2, position, x.view(1, -1, KV_HEADS, HEAD_DIM).transpose(1, 2))
        after = written.sum(-1) + self.cache.sum(-1)
        self.cache.copy_(written)
        return after + before.sum(-1)


def test_a_cache_that_is_read_as_it_was_is_copied() -> None:
    result = lower_and_compare(Read("copy"), inputs(2, 5, 6), calls=[inputs(2, 6, 9)], dialects=("aten",))
    assert "update_cache" not in result.kernels()


class Odd(nn.Module):
    """What the kernel does not take, and the general scatter does."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("cache", torch.zeros(1, 2, 8, 6 if form == "head_dim" else 4))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        match self.form:
            case "axis":
                self.cache.index_copy_(3, places, x[..., :2])
            case "broadcast":
                self.cache[:, :, places] = x[:, :1, :2]
            case "one row":
                self.cache[:, :, places] = x[:, :, :1]
            case _:
                self.cache.index_copy_(2, places, x[:, :, :2])
        return self.cache + 1.0


@pytest.mark.parametrize("form", ["axis", "broadcast", "one row", "head_dim"])
def test_what_the_kernel_does_not_take_is_scattered(form: str) -> None:
    x = torch.randn(1, 2, 8, 6 if form == "head_dim" else 4)
    result = lower_and_compare(Odd(form), (x, torch.tensor([1, 3])), dialects=("aten",))
    assert "update_cache" not in result.kernels()


class Custom(nn.Module):
    """ExecuTorch's operators: caches [B, T, H, D], a position that is an argument."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("k_cache", torch.zeros(1, PLACES, KV_HEADS, HEAD_DIM))
        self.register_buffer("v_cache", torch.zeros(1, PLACES, KV_HEADS, HEAD_DIM))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        new = x.view(1, -1, KV_HEADS, HEAD_DIM)
        if self.kind == "sdpa":
            q = new.repeat_interleave(2, 2)
            return torch.ops.llama.sdpa_with_kv_cache(
                q, new, new, self.k_cache, self.v_cache, 5, x.shape[1], None, 0.0, True
            )
        if self.kind == "indices":
            torch.ops.llama.update_cache_with_indices(new, self.k_cache, 0, places.unsqueeze(0))
        else:
            torch.ops.llama.update_cache(new, self.k_cache, 5)
        return self.k_cache.transpose(1, 2) + 1.0


@pytest.mark.parametrize(
    ("kind", "kernels"),
    [
        ("update", ["update_cache"]),
        ("indices", ["update_cache"]),
        ("sdpa", ["update_cache", "update_cache", "attention"]),
    ],
)
def test_executorch_s_operators(kind: str, kernels: list[str]) -> None:
    result = lower_and_compare(Custom(kind), inputs(3, 7, 2, 9))
    for dialect in result.programs:
        assert [kernel for kernel in result.kernels(dialect) if kernel in ("update_cache", "attention")] == kernels
        caches_read = [call for call in result.programs[dialect].calls if call.kernel == "strided_copy"]
        assert all("cache" not in call.name for call in caches_read)

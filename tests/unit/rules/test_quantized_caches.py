"""kv_cache="i8": both caches of a layer are int8 states, and equal to eager caches of rounded keys and values."""

from __future__ import annotations

import re

import pytest
import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  # registers torch.ops.llama
from torch import nn
from torch.export import Dim
from torch.nn.functional import scaled_dot_product_attention

from tests.unit.rules.lowered import export
from zeropoint import CompileOptions
from zeropoint.export.matching import match_program
from zeropoint.export.preprocess import lower_program
from zeropoint.lowering.aten import FUNCTIONALIZED
from zeropoint.lowering.graph import op_name
from zeropoint.program import Memory
from zeropoint.verification.interpreter import run_reference

Tensor = torch.Tensor
HEADS, KV_HEADS, HEAD_DIM, PLACES, START = 4, 2, 16, 24, 5
UPDATES = ("aten.index_copy.default", "aten.index_put.default", FUNCTIONALIZED)
S = {1: Dim("s", min=1, max=9)}
I8 = CompileOptions(kv_cache="i8")


def rounded(x: Tensor) -> Tensor:
    """What is read back of heads that were written as codes."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return torch.round(x * (1 / scale)).clamp(-127, 127) * scale


class Layer(nn.Module):
    """q, k, v [B, S, heads * D] and a position. also: what no int8 cache allows. eager: rounds what it writes."""

    def __init__(self, custom: bool = False, also: str = "", *, eager: bool = False, first: float = 0.0) -> None:
        super().__init__()
        self.custom, self.also, self.eager = custom, also, eager
        shape = (1, PLACES, KV_HEADS, HEAD_DIM) if custom else (1, KV_HEADS, PLACES, HEAD_DIM)
        self.register_buffer("k_cache", torch.full(shape, first))
        self.register_buffer("v_cache", torch.full(shape, first))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor) -> Tensor:
        tokens = q.shape[1]
        q, k, v = (x.view(1, tokens, -1, HEAD_DIM) for x in (q, k, v))
        if self.eager:
            k, v = rounded(k), rounded(v)
        if self.custom:
            torch.ops.llama.update_cache(k, self.k_cache, START)
            torch.ops.llama.update_cache(v, self.v_cache, START)
            return torch.ops.llama.custom_sdpa(q, self.k_cache, self.v_cache, START, None, 0.0, True)
        before = self.v_cache.sum() if self.also == "before" else 0.0
        places = torch.arange(tokens) + position[0]
        if self.also == "broadcast":
            self.k_cache[:, :, places] = k.transpose(1, 2)[:, :, :1]
        else:
            self.k_cache.index_copy_(2, places, k.transpose(1, 2))
        self.v_cache.index_copy_(2, places, v.transpose(1, 2))
        keys, values = (x[:, :, self.also == "part" :] for x in (self.k_cache, self.v_cache))
        mask = (torch.arange(keys.shape[2]) <= places[:, None])[None, None]
        dropout = 0.5 if self.also == "dropout" else 0.0
        y = scaled_dot_product_attention(q.transpose(1, 2), keys, values, mask, dropout, enable_gqa=True)
        if self.also == "returned":
            return y, self.k_cache  # type: ignore[return-value]
        return y + self.k_cache.sum() if self.also == "after" else y + before


class Whole(nn.Module):
    """ExecuTorch's operator that writes both caches and reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("k_cache", torch.zeros(1, PLACES, KV_HEADS, HEAD_DIM))
        self.register_buffer("v_cache", torch.zeros(1, PLACES, KV_HEADS, HEAD_DIM))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor) -> Tensor:
        q, k, v = (x.view(1, x.shape[1], -1, HEAD_DIM) for x in (q, k, v))
        attend = torch.ops.llama.sdpa_with_kv_cache
        y: Tensor = attend(q, k, v, self.k_cache, self.v_cache, START, q.shape[1], None, 0.0, True)
        return y


def inputs(tokens: int, first: int) -> tuple[Tensor, ...]:
    q, k, v = (torch.randn(1, tokens, heads * HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return q, k, v, torch.tensor([first])


@pytest.mark.parametrize("dialect", ["aten", "edge"])
@pytest.mark.parametrize("custom", [False, True], ids=["copy", "custom"])
def test_keys_and_values_are_rounded_and_nothing_else(custom: bool, dialect: str) -> None:
    exported = export(Layer(custom), inputs(3, START), dialect, dynamic_shapes=(S, S, S, {}))
    program, constants = lower_program(exported, I8)
    kernels = [call.kernel for call in program.calls if "cache" in call.kernel or call.kernel == "attention"]
    assert kernels == ["update_cache_q8", "update_cache_q8", "attention"]
    kept = {
        tensor.name: tensor.dtype.value
        for tensor in program.tensors
        if tensor.memory is Memory.STATE and tensor.alias_of < 0
    }
    assert kept == {f"{x}_cache.{part}": dtype for x in "kv" for part, dtype in (("codes", "i8"), ("scale", "f32"))}
    eager, states = Layer(custom, eager=True), {}
    for given in (inputs(3, START), inputs(9, START), inputs(1, START if custom else 14)):
        (actual,) = run_reference(program, constants, list(given), states).outputs
        torch.testing.assert_close(actual, eager(*given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer(also="after"), "an int8 cache is read by one attention alone"),
        (Layer(also="before"), "others read .* as it was"),
        (Layer(first=1.0), "is not of zeros at first"),
        (Layer(also="returned"), "others read its key cache"),
        (Layer(also="broadcast"), "broadcasts one row to many places: such a cache cannot be int8"),
        (Layer(also="part"), "its key is no cache: such a cache cannot be int8"),
        (Layer(also="dropout"), "scaled_dot_product_attention, which would do it, stays outside"),
        (Whole(), "sdpa_with_kv_cache.default as an int8 cache; offered llama.update_cache.default"),
    ],
    ids=["read after", "read before", "contents", "returned", "broadcast", "part", "dropout", "whole"],
)
def test_a_cache_that_cannot_be_int8_is_refused(layer: nn.Module, reason: str) -> None:
    exported = export(layer, inputs(3, 0), "aten")
    updates = [node for node in exported.graph.nodes if op_name(node) in UPDATES]
    matching = match_program(exported, I8)
    assert any(re.search(reason, matching.reasons.get(node, "")) for node in updates)
    assert not any(node in matching.lowered for node in updates)
    assert all(node in match_program(exported, CompileOptions()).lowered for node in updates)

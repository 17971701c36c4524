"""Whole tiny transformers in one Program, equal to what torch computes over a prompt and several tokens after it."""

from __future__ import annotations

import pytest
import torch

from tests.unit.rules import models
from tests.unit.rules.whole import Call, Whole, compare_whole, decoding, executorch_decoding
from zeropoint import CompileOptions

LAYERS = 2
PROMPT_AND_TOKENS = (7, 1, 1, 4, 1)
ERROR = 2e-6  # relative to the largest output: roundings of f32
FUSED = {"aten.pow", "softmax_rows", "reduce_rows", "scatter", "gather", "where", "elementwise_compare"}


def check_decoder(whole: Whole, *, norms: int, linears: int) -> None:
    """One call for everything that has a kernel, norms of heads within, and no copy as large as a cache."""
    assert whole.error <= ERROR
    counts = {
        "rms_norm": norms,
        "matmul": linears,
        "rotary_update_cache": LAYERS,
        "rotary_embedding": 0,
        "update_cache": 0,
        "attention": LAYERS,
        "gated_activation": LAYERS,
    }
    assert {kernel: whole.count(kernel) for kernel in counts} == counts
    assert all(whole.count(kernel) == 0 for kernel in FUSED)
    for attrs in whole.attrs("attention"):
        assert (attrs["causal"], attrs["masked"], attrs["kv_heads"]) == (1, 0, 2)
    caches = {
        index
        for index, tensor in enumerate(whole.program.tensors)
        if "cache_" in tensor.name or "_cache" in tensor.name
    }
    copied = [call for call in whole.program.calls if call.kernel == "strided_copy"]
    assert not [call.name for call in copied if caches & {arg.tensor for arg in call.args}]


@pytest.mark.parametrize(
    ("name", "dialect", "norms", "linears"),
    [
        ("llama", "aten", 2 * LAYERS + 1, 7 * LAYERS + 1),
        ("qwen3", "aten", 2 * LAYERS + 1, 7 * LAYERS + 1),
        ("phi3", "aten", 2 * LAYERS + 1, 4 * LAYERS + 1),
        pytest.param("llama", "edge", 2 * LAYERS + 1, 7 * LAYERS + 1, marks=pytest.mark.slow),
        pytest.param("gemma2", "edge", 4 * LAYERS + 1, 7 * LAYERS + 1, marks=pytest.mark.slow),
        pytest.param("gemma3", "aten", 4 * LAYERS + 1, 7 * LAYERS + 1, marks=pytest.mark.slow),
    ],
)
def test_decoders(name: str, dialect: str, norms: int, linears: int) -> None:
    whole = compare_whole(models.BUILDERS[name](), dialect, decoding(*PROMPT_AND_TOKENS))
    check_decoder(whole, norms=norms, linears=linears)
    windows = [attrs["window"] for attrs in whole.attrs("attention")]
    assert sorted(windows) == ([0, 8] if name.startswith("gemma") else [0, 0])
    assert all(attrs["soft_cap"] == (50.0 if name == "gemma2" else 0.0) for attrs in whole.attrs("attention"))


@pytest.mark.parametrize(
    ("options", "dialect"),
    [
        ({}, "aten"),
        pytest.param({"custom_ops": True}, "edge", marks=pytest.mark.slow),
        pytest.param({"hf_rope": True}, "edge", marks=pytest.mark.slow),
        pytest.param({"dynamic": False}, "aten", marks=pytest.mark.slow),
    ],
)
def test_executorch_s_llama(options: dict[str, bool], dialect: str) -> None:
    lengths = PROMPT_AND_TOKENS if options.get("dynamic", True) else (1, 1, 1)
    whole = compare_whole(models.executorch_llama(**options), dialect, executorch_decoding(*lengths))
    check_decoder(whole, norms=2 * LAYERS + 1, linears=7 * LAYERS + 1)
    assert all(attrs["table_rows"] == 0 for attrs in whole.attrs("rotary_update_cache"))


def test_half_compute() -> None:
    options = CompileOptions(compute_dtype="f16")
    whole = compare_whole(models.llama(), "aten", decoding(*PROMPT_AND_TOKENS), options)
    assert whole.error <= 3e-3
    assert whole.count("attention") == LAYERS


def test_encoder_with_padding() -> None:
    def call(n: int) -> Call:
        ids = torch.randint(1, models.VOCABULARY, (2, n))
        return (ids, (torch.arange(n) < torch.tensor([[n], [3]])).long()), {}

    calls = [call(7), call(1), call(20)]
    whole = compare_whole(models.bert(), "aten", calls)
    assert whole.error <= ERROR
    assert whole.count("attention") == LAYERS
    assert whole.count("where") == whole.count("softmax_rows") == whole.count("gather") == 0
    assert all(attrs["q_layout"] == attrs["kv_layout"] == 1 for attrs in whole.attrs("attention"))


def test_image_encoder() -> None:
    whole = compare_whole(models.vit(), "edge", [((torch.randn(1, 17, 64),), {})])
    assert whole.error <= ERROR
    assert whole.count("attention") == LAYERS
    assert all(attrs["masked"] == 0 for attrs in whole.attrs("attention"))

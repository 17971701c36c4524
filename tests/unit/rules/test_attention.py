"""Attention: every argument of scaled_dot_product_attention, its decompositions, eager forms and ExecuTorch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  # registers torch.ops.llama
from torch import nn
from torch.export import Dim
from torch.nn.functional import scaled_dot_product_attention

from tests.unit.rules.lowered import Compared, lower_and_compare
from zeropoint import CompileOptions
from zeropoint.rules.attention import one_pass as attention

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
S = {1: Dim("s", min=1, max=16)}
Tensor = torch.Tensor
Attend = Callable[..., Tensor]


def repeat_kv(x: Tensor, times: int) -> Tensor:
    """As Hugging Face's models repeat keys and values."""
    batch, heads, tokens, width = x.shape
    return x[:, :, None].expand(batch, heads, times, tokens, width).reshape(batch, heads * times, tokens, width)


def sdpa(**options: object) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, times: int) -> Tensor:
        return scaled_dot_product_attention(q, repeat_kv(k, times), repeat_kv(v, times), mask, **options)

    return attend


def grouped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, times: int) -> Tensor:
    return scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


def interleaved(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, times: int) -> Tensor:
    """As ExecuTorch's models repeat them."""
    return scaled_dot_product_attention(q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1), mask)


def eager(soft_cap: float = 0.0) -> Attend:
    """As Hugging Face's models write attention out."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, times: int) -> Tensor:
        k, v = repeat_kv(k, times), repeat_kv(v, times)
        scores = torch.matmul(q, k.transpose(2, 3)) * 0.3
        if soft_cap:
            scores = torch.tanh(scores / soft_cap) * soft_cap
        if mask is not None:
            scores = scores + mask
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        return torch.matmul(nn.functional.dropout(weights, 0.1, training=False), v)

    return attend


def simple(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, times: int) -> Tensor:
    """As ExecuTorch's SDPASimple writes it out."""
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    weights = torch.softmax(q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1])) + mask, dim=-1)
    return weights @ v


class Attention(nn.Module):
    """Projections [B, S, heads * D] in, [B, S, heads * D] out."""

    def __init__(self, attend: Attend, *, kv_heads: int = KV_HEADS) -> None:
        super().__init__()
        self.attend, self.kv_heads = attend, kv_heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            x.view(*x.shape[:2], heads, HEAD_DIM).transpose(1, 2)
            for x, heads in ((q, HEADS), (k, self.kv_heads), (v, self.kv_heads))
        )
        y = self.attend(q, k, v, mask, HEADS // self.kv_heads)
        return y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1)


def qkv(*, batch: int = 1, queries: int = 5, keys: int = 7, kv_heads: int = KV_HEADS) -> tuple[Tensor, ...]:
    widths = (HEADS * HEAD_DIM, kv_heads * HEAD_DIM, kv_heads * HEAD_DIM)
    tokens = (queries, keys, keys)
    return tuple(torch.randn(batch, count, width) for count, width in zip(tokens, widths, strict=True))


def attrs_of(result: Compared) -> dict[str, object]:
    """The attributes of the last call, which attention is, the same in all dialects."""
    found = [{attr.name: attr.value for attr in program.calls[-1].attrs} for program in result.programs.values()]
    for attrs in found:  # the edge dialect keeps scalars as f32 tensors
        assert attrs == {**found[0], "scale": pytest.approx(found[0]["scale"])}
    return found[0]


def hidden(shape: tuple[int, ...]) -> Tensor:
    """A mask of bools that hides some keys, and all keys of query 2."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.4
    if shape[-2] > 2:
        mask[..., 2, :] = False
    return mask


MASKS: dict[str, Tensor] = {
    "bool": hidden((1, 1, 5, 7)),
    "rank_2": hidden((5, 7)),
    "by_head": hidden((2, 4, 5, 7)),
    "by_key": hidden((2, 1, 1, 7)),
    "float": torch.where(hidden((1, 1, 5, 7)), 0.0, -math.inf),
    "bias": torch.randn(1, 4, 5, 7),
}


FORMS: dict[str, Attend] = {
    "sdpa": sdpa(),
    "scale": sdpa(scale=0.5),
    "causal": sdpa(is_causal=True),
    "grouped": grouped,
    "interleaved": interleaved,
    "eager": eager(),
    "soft_cap": eager(5.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_read_projections_where_they_lie(form: str) -> None:
    """Neither transposing the heads nor repeating them nor joining them again copies anything."""
    calls = [qkv(queries=1, keys=1), qkv(queries=16, keys=16)]
    model = Attention(FORMS[form])
    result = lower_and_compare(model, qkv(queries=5, keys=5), dynamic_shapes=(S, S, S), calls=calls)
    assert result.kernels() == ["attention"]
    attrs = attrs_of(result)
    assert attrs["kv_heads"] == KV_HEADS
    assert (attrs["q_layout"], attrs["kv_layout"]) == (1, 1)
    assert attrs["causal"] == int(form == "causal")
    assert attrs["soft_cap"] == (5.0 if form == "soft_cap" else 0.0)


class Merged(nn.Module):
    """q, k and v side by side in one projection."""

    def forward(self, x: Tensor) -> Tensor:
        widths = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM]
        return Attention(sdpa(is_causal=True))(*x.split(widths, dim=-1))


def test_a_merged_projection_is_bound_three_times() -> None:
    row = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    result = lower_and_compare(
        Merged(), (torch.randn(2, 5, row),), dynamic_shapes=(S,), calls=[(torch.randn(2, 9, row),)], dialects=("aten",)
    )
    assert result.kernels() == ["attention"]
    firsts = [attrs_of(result)[f"{slot}_first"] for slot in "qkv"]
    assert firsts == [0, HEADS * HEAD_DIM, (HEADS + KV_HEADS) * HEAD_DIM]


@pytest.mark.parametrize("form", ["sdpa", "eager"])
def test_several_batch_entries(form: str) -> None:
    result = lower_and_compare(Attention(FORMS[form]), qkv(batch=2), dialects=("aten",))
    assert result.kernels() == ["attention"]


def decomposed(attend: Attend, inputs: tuple[Tensor, ...]) -> Compared:
    """As ExecuTorch decomposes it where another of the graph is one that no rule takes whole."""
    with mock.patch.object(attention, "WHOLE", ()):
        return lower_and_compare(Attention(attend), inputs, dialects=("edge",))


@pytest.mark.parametrize("form", ["sdpa", "scale", "grouped", "interleaved"])
def test_decomposed_attention_is_the_same_call(form: str) -> None:
    """Scales on q and k and repeated heads are read as the arguments that they were."""
    inputs = qkv(queries=5, keys=5)
    whole, pieces = (
        lower_and_compare(Attention(FORMS[form]), inputs, dialects=("edge",)),
        decomposed(FORMS[form], inputs),
    )
    assert pieces.kernels() == whole.kernels() == ["attention"]
    assert attrs_of(pieces) == {**attrs_of(whole), "scale": pytest.approx(attrs_of(whole)["scale"])}


@pytest.mark.parametrize("name", MASKS)
def test_decomposed_masks(name: str) -> None:
    """A softmax whose empty rows are 0 stays one."""
    result = decomposed(sdpa(), (*qkv(batch=2), MASKS[name]))
    assert result.kernels().count("attention") == 1
    assert (attrs_of(result)["nan_rows"], attrs_of(result)["masked"]) == (0, 1)


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    inputs = (*qkv(batch=2), MASKS[name])
    result = lower_and_compare(Attention(sdpa()), inputs, dialects=("aten",))
    assert result.kernels() == ["attention"]
    assert attrs_of(result)["masked"] == 1


@pytest.mark.parametrize("attend", [eager(), simple], ids=["eager", "simple"])
@pytest.mark.parametrize("lowest", [-math.inf, torch.finfo(torch.float32).min])
def test_eager_masks_and_rows_that_see_nothing(attend: Attend, lowest: float) -> None:
    """softmax gives NaN for a row of -inf, and a mean for one of the lowest number."""
    inputs = (*qkv(), torch.where(MASKS["bool"], 0.0, lowest))
    result = lower_and_compare(Attention(attend), inputs, dialects=("aten",))
    assert result.kernels() == ["attention"]
    assert attrs_of(result)["nan_rows"] == 1


def test_half_compute_gives_no_nan_where_the_graph_has_none() -> None:
    inputs = (*qkv(), torch.where(MASKS["bool"], 0.0, torch.finfo(torch.float32).min))
    inputs[3][..., 2, 0] = 0.0  # the lowest f32 is -inf in f16, which hides a row that the graph does not
    options = CompileOptions(compute_dtype="f16")
    result = lower_and_compare(Attention(eager()), inputs, dialects=("aten",), options=options, rtol=5e-3, atol=5e-3)
    assert attrs_of(result)["nan_rows"] == 0


class Positions(nn.Module):
    """Masks that say which keys a query sees by their places; position [1]."""

    def __init__(self, *, window: int = 0, added: float = 0.0, padded: bool = False, keys: int = 12) -> None:
        super().__init__()
        self.window, self.added, self.padded, self.keys = window, added, padded, keys
        self.attention = Attention(eager() if added else sdpa())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        rows = (torch.arange(q.shape[1]) + position)[None, None, :, None]
        columns = torch.arange(self.keys)[None, None, None, :]
        mask = columns <= rows
        if self.window:
            mask = mask & (columns > rows - self.window)
        if self.padded:
            mask = mask & padding[:, None, None, :]
        mask = mask.expand(q.shape[0], -1, q.shape[1], self.keys)
        return self.attention(q, k, v, torch.where(mask, 0.0, self.added) if self.added else mask)


@pytest.mark.parametrize(
    ("options", "window", "masked"),
    [
        ({}, 0, 0),
        ({"window": 3}, 3, 0),
        ({"added": -math.inf}, 0, 0),
        ({"added": torch.finfo(torch.float32).min, "window": 5}, 5, 0),
        ({"padded": True}, 0, 1),
        ({"padded": True, "added": -math.inf}, 0, 1),
    ],
)
def test_masks_of_positions_are_computed_by_the_kernel(options: dict[str, object], window: int, masked: int) -> None:
    def inputs(queries: int, position: int) -> tuple[Tensor, ...]:
        padding = torch.ones(1, 12, dtype=torch.bool)
        padding[:, 1] = False
        return (*qkv(queries=queries, keys=12), torch.tensor([position]), padding)

    shapes = (S, {}, {}, {}, {})
    result = lower_and_compare(Positions(**options), inputs(3, 4), dynamic_shapes=shapes, calls=[inputs(1, 11)])
    for dialect in result.programs:
        assert result.kernels(dialect) == ["attention"]
        attrs = attrs_of(result)
        assert (attrs["causal"], attrs["window"], attrs["masked"]) == (1, window, masked)


@pytest.mark.parametrize("added", [-5.0, 1.0])
def test_a_mask_that_hides_nothing_is_added(added: float) -> None:
    inputs = (*qkv(queries=3, keys=12), torch.tensor([4]), torch.ones(1, 12, dtype=torch.bool))
    result = lower_and_compare(Positions(added=added), inputs, dialects=("aten",))
    assert attrs_of(result)["masked"] == 1


class Triangle(nn.Module):
    """Rows of a constant lower triangle, picked by position."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        table = torch.ones(12, 12).tril().bool()
        table[0, 5] = not whole
        self.register_buffer("table", table)
        self.attention = Attention(sdpa())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor) -> Tensor:
        return self.attention(q, k, v, self.table[position])


@pytest.mark.parametrize("whole", [True, False])
def test_rows_of_a_triangle(whole: bool) -> None:
    inputs = (*qkv(queries=1, keys=12), torch.tensor([4]))
    result = lower_and_compare(
        Triangle(whole=whole), inputs, dialects=("aten",), calls=[(*inputs[:3], torch.tensor([0]))]
    )
    assert attrs_of(result)["causal"] == int(whole)
    assert attrs_of(result)["masked"] == int(not whole)


@pytest.mark.parametrize(
    ("queries", "keys", "split"), [(1, 300, True), (8, 300, True), (9, 300, False), (1, 200, False)]
)
def test_few_queries_of_a_long_cache_are_split(queries: int, keys: int, split: bool) -> None:
    inputs = qkv(queries=queries, keys=keys, batch=2)
    result = lower_and_compare(Attention(sdpa()), inputs, dialects=("aten",))
    assert result.kernels() == (["attention_decode_partial", "attention_decode_reduce"] if split else ["attention"])


class Custom(nn.Module):
    """llama.custom_sdpa of [B, S, H, D] and caches [B, T, H, D]."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.ops.llama.custom_sdpa(q, k, v, 4, mask, 0.0, self.causal)


class Traced(nn.Module):
    """The same from a position that is an argument."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, position: int) -> Tensor:
        torch._check(position < 12)
        return torch.ops.llama.custom_sdpa(q, k, v, position, None, 0.0, True)


def caches() -> tuple[Tensor, ...]:
    return tuple(
        torch.randn(1, tokens, heads, HEAD_DIM) for tokens, heads in ((3, HEADS), (12, KV_HEADS), (12, KV_HEADS))
    )


@pytest.mark.parametrize(("causal", "mask"), [(True, False), (False, False), (False, True)])
def test_custom_sdpa(causal: bool, mask: bool) -> None:
    added = torch.where(hidden((3, 12)), 0.0, -math.inf)
    added[2, 0] = 0.0
    inputs = (*caches(), added) if mask else caches()
    result = lower_and_compare(Custom(causal=causal), inputs, dialects=("aten",))
    assert result.kernels() == ["attention"]
    assert attrs_of(result)["filled"] == int(not causal and not mask)


def test_custom_sdpa_at_a_traced_position() -> None:
    inputs, longer = (*caches(), 4), (*caches(), 7)
    shapes = (None, None, None, Dim.DYNAMIC)
    result = lower_and_compare(Traced(), inputs, dynamic_shapes=shapes, dialects=("aten",), calls=[longer])
    assert result.kernels() == ["arange", "attention"]


@pytest.mark.parametrize("width", [18, 264])
def test_head_sizes_that_no_kernel_has(width: int) -> None:
    """The operators it is made of take over."""

    class Odd(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return eager()(q, q, q, None, 1)

    result = lower_and_compare(Odd(), (torch.randn(1, 2, 3, width),), dialects=("aten",), rtol=1e-4, atol=1e-4)
    assert "attention" not in result.kernels()
    assert "softmax_rows" in result.kernels()

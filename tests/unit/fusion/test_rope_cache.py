"""Head norms, rotations and both cache writes of a layer in one call; and what keeps them apart."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  # registers torch.ops.llama
from torch import nn
from torch.export import Dim
from torch.nn.functional import scaled_dot_product_attention

from tests.unit.rules.lowered import Compared, lower_and_compare
from zeropoint.lowering.options import CompileOptions
from zeropoint.program import Call

Tensor = torch.Tensor
HEADS, KV_HEADS, HEAD_DIM, PLACES = 4, 2, 16, 24
S = {1: Dim("s", min=1, max=9)}


@dataclass(frozen=True)
class Form:
    """rotation: "halves", "partial" of [B, H, S, D], or "pairs" of [B, S, H, D]. cache: how it is written.

    late: norms come after the heads were put before the tokens. apart: q, k and v are tensors of their own.
    """

    rotation: str = "halves"
    cache: str = "copy"
    normed: bool = False
    late: bool = False
    apart: bool = False
    offset: float = 0.0
    eps: tuple[float, float] = (1e-3, 1e-3)
    read_early: str = ""
    other_place: bool = False
    third: bool = False
    kv_heads: int = KV_HEADS


class Layer(nn.Module):
    """From projections to attention. inputs: q, k, v side by side [B, S, ...], tables [1, S, width], position [1]."""

    def __init__(self, form: Form, *, batch: int = 1) -> None:
        super().__init__()
        self.form = form
        middle = (PLACES, form.kv_heads) if form.cache == "custom" else (form.kv_heads, PLACES)
        self.register_buffer("k_cache", torch.zeros(batch, *middle, HEAD_DIM))
        self.register_buffer("v_cache", torch.zeros(batch, *middle, HEAD_DIM))
        self.q_norm, self.k_norm = (nn.Parameter(torch.randn(HEAD_DIM)) for _ in range(2))

    def forward(self, qkv: Tensor, cos: Tensor, sin: Tensor, position: Tensor) -> Tensor:
        batch, tokens, _ = qkv.shape
        q, k, v = qkv.split([heads * HEAD_DIM for heads in (HEADS, self.form.kv_heads, self.form.kv_heads)], dim=-1)
        if self.form.apart:
            q, k, v = q * 2.0, k * 2.0, v * 2.0
        q, k, v = (x.view(batch, tokens, -1, HEAD_DIM) for x in (q, k, v))
        if self.form.normed and not self.form.late:
            q, k = self.normed(q, k)
        axis = 2 if self.form.rotation == "pairs" else 1
        q, k, v = self.rotated(q, k, v, cos := cos.unsqueeze(axis), sin := sin.unsqueeze(axis))
        more = [q.sum()] if self.form.read_early == "q" else []
        if self.form.third:
            more.append(turned_halves(v, cos, sin).sum())
        places = torch.arange(tokens) + position[0]
        k = self.write(self.k_cache, k, places)
        if self.form.read_early == "k":
            more.append(k.sum())
        v = self.write(self.v_cache, v, places + 1 if self.form.other_place else places)
        mask = torch.arange(PLACES) <= places[:, None]
        y = scaled_dot_product_attention(q, k, v, mask, enable_gqa=True).transpose(1, 2)
        return sum(more, start=y.reshape(batch, tokens, -1))

    def normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(q, self.q_norm, self.form.eps[0]), self.norm(k, self.k_norm, self.form.eps[1])

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (weight + self.form.offset)

    def rotated(self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        if self.form.rotation == "pairs":
            return tuple(x.transpose(1, 2) for x in (turned_pairs(q, cos, sin), turned_pairs(k, cos, sin), v))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if self.form.normed and self.form.late:
            q, k = self.normed(q, k)
        return turned_halves(q, cos, sin), turned_halves(k, cos, sin), v

    def write(self, cache: Tensor, new: Tensor, places: Tensor) -> Tensor:
        match self.form.cache:
            case "copy":
                return cache.index_copy_(2, places, new)
            case "put":
                cache[:, :, places] = new
                return cache
            case _:
                torch.ops.llama.update_cache(new.transpose(1, 2), cache, 5)
                return cache.transpose(1, 2)


def turned_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = cos.shape[-1]
    head, rest = x[..., :width], x[..., width:]
    turned = head * cos + torch.cat((-head[..., width // 2 :], head[..., : width // 2]), -1) * sin
    return turned if width == x.shape[-1] else torch.cat([turned, rest], -1)


def turned_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    real, imaginary = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = [real * cos - imaginary * sin, real * sin + imaginary * cos]
    return torch.stack(turned, dim=-1).flatten(3)


def inputs(form: Form, tokens: int, position: int, *, batch: int = 1) -> tuple[Tensor, ...]:
    width = HEAD_DIM if form.rotation == "halves" else HEAD_DIM // 2
    row = (HEADS + 2 * form.kv_heads) * HEAD_DIM
    tables = (torch.randn(1, tokens, width) for _ in range(2))
    return torch.randn(batch, tokens, row), *tables, torch.tensor([position])


def lowered(
    form: Form, *, batch: int = 1, tokens: tuple[int, ...] = (3, 9, 1), dialects: tuple[str, ...] = ("aten",)
) -> Compared:
    """tokens: of export and of the calls; one number makes them static."""
    first = 5 if form.cache == "custom" else 0
    calls = [inputs(form, n, first if n > 1 else first or 12, batch=batch) for n in tokens[1:] or tokens]
    return lower_and_compare(
        Layer(form, batch=batch),
        inputs(form, tokens[0], first, batch=batch),
        dynamic_shapes=(S, S, S, {}) if len(tokens) > 1 else None,
        calls=calls,
        options=CompileOptions(fusions="rope_cache"),
        dialects=dialects,
    )


@pytest.mark.parametrize(
    "form",
    [
        Form(),
        Form("pairs", "put", normed=True, offset=1.0),
        pytest.param(Form("partial", "put"), marks=pytest.mark.slow),
        pytest.param(Form("pairs", "copy"), marks=pytest.mark.slow),
        pytest.param(Form("pairs", "custom"), marks=pytest.mark.slow),
        pytest.param(Form(normed=True), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_layer_is_one_call_beside_attention(form: Form) -> None:
    """q, k and v are read where they lie, in a merged projection."""
    result = lowered(form, dialects=("aten", "edge"))
    for dialect in result.programs:
        assert [kernel for kernel in result.kernels(dialect) if "arange" not in kernel] == [
            "rotary_update_cache",
            "attention",
        ]
    (attrs,) = {tuple((a.name, a.value) for a in call.attrs if isinstance(a.value, int)) for call in fused(result)}
    assert dict(attrs)["normed"] == int(form.normed)
    assert dict(attrs)["k_first"] == HEADS * HEAD_DIM


def fused(result: Compared) -> list[Call]:
    return [
        call for program in result.programs.values() for call in program.calls if call.kernel == "rotary_update_cache"
    ]


def test_several_batch_entries() -> None:
    assert len(fused(lowered(Form(normed=True), batch=2))) == 1


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("apart", [False, True], ids=["joined", "apart"])
def test_a_single_head_of_keys(apart: bool, late: bool) -> None:
    """Its rows lie as far apart as those of the projection; apart, its values may count as heads of tokens."""
    (call,) = fused(lowered(Form(normed=True, late=late, apart=apart, kv_heads=1)))
    assert {attr.name: attr.value for attr in call.attrs}["normed"] == 1


@pytest.mark.parametrize("tokens", [(3, 9, 1), (HEADS,), (1,)], ids=str)
def test_norms_of_heads_before_tokens(tokens: tuple[int, ...]) -> None:
    """Their rows count tokens first, also where there are as many tokens as heads."""
    (call,) = fused(lowered(Form(normed=True, late=True), tokens=tokens))
    assert {attr.name: attr.value for attr in call.attrs}["normed"] == 1


def test_norms_of_heads_before_tokens_of_several_batch_entries() -> None:
    """The heads of two entries lie no single step apart."""
    result = lowered(Form(normed=True, late=True, apart=True), batch=2)
    assert not fused(result)
    assert result.kernels().count("rms_norm") == 2


def test_norms_that_differ_stay_apart() -> None:
    """The normed keys lie apart from the values then, in rows of another length."""
    result = lowered(Form(normed=True, eps=(1e-3, 1e-2)))
    assert not fused(result)
    assert result.kernels().count("rms_norm") == result.kernels().count("rotary_embedding") == 2


@pytest.mark.parametrize(
    "form",
    [Form(read_early="q"), Form(read_early="k"), Form(other_place=True), Form(third=True)],
    ids=["q_is_read_before", "cache_is_read_between", "places_differ", "tables_turn_others"],
)
def test_what_keeps_the_parts_apart(form: Form) -> None:
    result = lowered(form)
    assert not fused(result)
    assert result.kernels().count("update_cache") == 2


class Apart(nn.Module):
    """What looks like a layer's rotations and updates and is none. inputs: q, k, v [B, S, ...], tables, position."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        for name in ("k_cache", "v_cache"):
            self.register_buffer(name, torch.zeros(1, 1, PLACES, HEAD_DIM))
        self.latents = nn.Parameter(torch.randn(1, 4, HEADS, HEAD_DIM))
        self.weight = nn.Parameter(torch.randn(HEAD_DIM))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, position: Tensor
    ) -> tuple[Tensor, ...]:
        cos, sin, tokens = cos.unsqueeze(1), sin.unsqueeze(1), k.shape[1]
        k, v = (x.view(x.shape[0], tokens, 1, HEAD_DIM).transpose(1, 2) for x in (k, v))
        if self.what == "latents":
            q, k = (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * self.weight for x in (self.latents, k))
        q = q.view(q.shape[0], tokens, HEADS, HEAD_DIM).transpose(1, 2)
        places = torch.arange(tokens) + position[0]
        early = self.what != "values"
        q = turned_halves(q, cos, sin) if early else q
        k, v = turned_halves(k, cos, sin), v if early else turned_halves(v, cos, sin)
        if self.what == "prefix":
            self.k_cache.index_copy_(2, places[:2], k[:, :, :2])
            self.v_cache.index_copy_(2, places[:tokens], v)
        else:
            self.k_cache.index_copy_(2, places, k)
            self.v_cache.index_copy_(2, places, v)
        return q if early else turned_halves(q, cos, sin), self.k_cache * 2.0, self.v_cache * 2.0


@pytest.mark.parametrize("what", ["values", "batch", "prefix", "latents"])
def test_what_only_looks_like_a_layer(what: str) -> None:
    """Values that are rotated, queries of more batch entries, fewer keys than values, queries that are a constant."""
    heads = {"q": HEADS, "k": 1, "v": 1}
    q, k, v = (torch.randn(3 if (name, what) == ("q", "batch") else 1, 4, n * HEAD_DIM) for name, n in heads.items())
    result = lower_and_compare(
        Apart(what),
        (q, k, v, torch.randn(1, 4, HEAD_DIM), torch.randn(1, 4, HEAD_DIM), torch.tensor([2])),
        options=CompileOptions(fusions="rope_cache"),
        dialects=("aten",),
    )
    assert len(fused(result)) == int(what == "latents")
    assert result.kernels().count("update_cache") == (0 if what == "latents" else 2)

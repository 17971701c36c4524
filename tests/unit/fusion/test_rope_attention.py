"""The pass rope_attention: which calls it offers one for, and which it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from zeropoint import CompileOptions, ProgramBuilder
from zeropoint.fusion import fuse
from zeropoint.program import Dim, Memory, Program
from zeropoint.program.text import program_text

HEADS, KV_HEADS, WIDTH, KEYS = 4, 2, 8, 20


@dataclass(frozen=True)
class Layer:
    """One layer's calls: a merged projection's rotation and cache writes, and attention over the caches.

    tokens: smallest and largest number. wide_cache: attention reads the caches as ones of half the keys, twice as wide.
    also: what else needs one of their tensors: "queries", "output" (the queries are one), "cache" or "stats".
    """

    tokens: tuple[int, int] = (1, 16)
    split: bool = False
    heads: int = HEADS
    head_dim: int = WIDTH
    cache_layout: int = 0
    kv_layout: int = 0
    other_position: bool = False
    other_cache: bool = False
    causal: int = 1
    q_first: int = 0
    attended_heads: int = 0
    y: str = "f32"
    also: str = ""
    wide_cache: bool = False
    keys: int = KEYS

    def program(self, fusions: str = "rope_attention") -> Program:
        b = ProgramBuilder()
        n = b.symbol("n", *self.tokens) if self.tokens[0] != self.tokens[1] else Dim(self.tokens[0])
        given = self.given(b, n)
        shape = (KV_HEADS, self.keys) if self.cache_layout == 0 else (self.keys, KV_HEADS)
        caches = [b.state(f"cache{i}", "f32", (1, *shape, self.head_dim)) for i in range(3)]
        q_out = b.tensor("q_out", "f32", (1, n, self.heads, self.head_dim))
        self._rotary(b, given, caches, q_out)
        if self.also in ("queries", "cache"):
            read(b, q_out if self.also == "queries" else caches[0])
        if self.also == "output":
            b.output(q_out)
        keys = [caches[0], caches[2 if self.other_cache else 1]]
        if self.wide_cache:
            keys = [b.alias(cache, (1, KV_HEADS, self.keys // 2, 2 * self.head_dim)) for cache in keys]
        b.output(self._attention(b, given, keys, q_out, n))
        fuse(b, CompileOptions(fusions=fusions))
        return b.build(drop_unused=True)[0]

    def given(self, b: ProgramBuilder, n: Dim) -> dict[str, int]:
        """The inputs, by name."""
        row = (self.heads + 2 * KV_HEADS) * self.head_dim
        given = {
            "qkv": b.tensor("qkv", "f32", (1, n, row)),
            "table": b.tensor("table", "f32", (self.keys, self.head_dim)),
        }
        for name in ("position", "other_position"):
            given[name] = b.tensor(name, "i32", (1,))
        given["norm"], given["mask"] = b.tensor("norm", "f32", (1,)), b.tensor("mask", "u8", (1, 1, 1, 1))
        for tensor in given.values():
            b.input(tensor)
        return given

    def _rotary(self, b: ProgramBuilder, given: dict[str, int], caches: list[int], q_out: int) -> None:
        first = self.heads * self.head_dim
        args = {"q": given["qkv"], "k": given["qkv"], "v": given["qkv"], "q_norm": given["norm"]}
        args |= {"k_norm": given["norm"], "cos_table": given["table"], "sin_table": given["table"]}
        args |= {"position": given["position"], "q_out": q_out, "k_cache": caches[0], "v_cache": caches[1]}
        attrs = self._head_attrs() | {"q_layout": 1, "kv_layout": 1, "q_first": 0, "k_first": first}
        attrs |= {"v_first": first + KV_HEADS * self.head_dim, "out_layout": 1, "cache_layout": self.cache_layout}
        attrs |= {"normed": 0, "rotary_dim": self.head_dim, "interleaved": 0, "table_rows": 0, "position_mode": 0}
        b.call("rotary_update_cache", args, attrs | {"eps": 0.0})

    def _attention(self, b: ProgramBuilder, given: dict[str, int], keys: list[int], q_out: int, n: Dim) -> int:
        args = {"q": q_out, "k": keys[0], "v": keys[1], "mask": given["mask"]}
        args["position"] = given["other_position" if self.other_position else "position"]
        attrs: dict[str, int | float] = self._head_attrs() | {"q_layout": 1, "kv_layout": self.kv_layout}
        attrs |= {"q_first": self.q_first, "k_first": 0, "v_first": 0, "masked": 0, "causal": self.causal}
        attrs |= {"window": 0, "filled": 0, "position_per_batch": 0, "scale": 0.125, "soft_cap": 0.0}
        attrs["heads"] = self.attended_heads or self.heads
        last = {"y_layout": 1, "nan_rows": 0}
        y = b.tensor("y", self.y, (1, n, self.heads, self.head_dim))
        if not self.split:
            b.call("attention", args | {"y": y}, attrs | last)
            return y
        group = self.heads // KV_HEADS
        rows = (1, KV_HEADS, 3, Dim(group * n.base, tuple((group * count, symbol) for count, symbol in n.terms)))
        sums = {
            "partial": b.tensor("partial", "f32", (*rows, self.head_dim)),
            "stats": b.tensor("stats", "f32", (*rows, 2)),
        }
        b.call("attention_decode_partial", args | sums, attrs)
        b.call("attention_decode_reduce", sums | {"y": y}, {"heads": self.heads, "kv_heads": KV_HEADS} | last)
        if self.also == "stats":
            read(b, sums["stats"])
        return y

    def _head_attrs(self) -> dict[str, int | float]:
        return {"heads": self.heads, "kv_heads": KV_HEADS, "head_dim": self.head_dim}


def read(b: ProgramBuilder, tensor: int) -> None:
    """A call that reads a tensor, for an output."""
    y = b.tensor("other", "f32", b.tensor_info(tensor).dims)
    b.call("elementwise_unary", {"x": tensor, "y": y}, {"op": 0, "alpha": 0.0, "beta": 0.0})
    b.output(y)


def kernels(program: Program) -> list[str]:
    return [call.kernel for call in program.calls]


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_golden_text(split: bool, golden: Callable[[str, str], None]) -> None:
    program = Layer(split=split).program()
    golden(f"rope_attention_{'split' if split else 'whole'}", program_text(program))


@pytest.mark.parametrize(
    "layer",
    [
        Layer(),
        Layer(tokens=(1, 1)),
        Layer(split=True, tokens=(1, 4)),
        Layer(cache_layout=1, kv_layout=1),
        Layer(causal=0, other_position=True),
    ],
    ids=["dynamic", "one token", "split", "by token", "position that does not matter"],
)
def test_one_call_is_offered(layer: Layer) -> None:
    program = layer.program()
    (item,) = program.alternatives
    assert kernels(program)[: item.fused] == ["rotary_attention"]
    assert kernels(program)[item.fused :] == kernels(layer.program("none"))
    assert not layer.program("quantize").alternatives


@pytest.mark.parametrize(
    "layer",
    [
        Layer(tokens=(2, 16)),
        Layer(heads=9 * KV_HEADS),
        Layer(head_dim=260),
        Layer(head_dim=6),
        Layer(kv_layout=1),
        Layer(other_position=True),
        Layer(other_cache=True),
        Layer(q_first=WIDTH),
        Layer(also="queries"),
        Layer(also="output"),
        Layer(also="cache"),
        Layer(also="stats", split=True),
        Layer(attended_heads=HEADS // 2),
        Layer(wide_cache=True),
        Layer(y="f16", split=True),
    ],
    ids=str,
)
def test_what_is_left_alone(layer: Layer) -> None:
    program = layer.program()
    assert not program.alternatives
    assert kernels(program) == kernels(layer.program("none"))


def test_layers_that_share_a_place_of_no_matter() -> None:
    """Attention under a mask reads no position: in all layers that slot is bound to one constant."""
    b = ProgramBuilder()
    layer = Layer(causal=0, other_position=True)
    given = layer.given(b, Dim(1))
    given["other_position"] = b.constant("placeholder", "i32", (1,), data=np.zeros(1, np.int32))
    for index in range(2):
        q_out = b.tensor("q_out", "f32", (1, 1, HEADS, WIDTH))
        caches = [b.state(f"cache{index}{slot}", "f32", (1, KV_HEADS, KEYS, WIDTH)) for slot in "kv"]
        layer._rotary(b, given, caches, q_out)
        b.output(layer._attention(b, given, caches, q_out, Dim(1)))
    fuse(b, CompileOptions(fusions="rope_attention"))
    assert len(b.build(drop_unused=True)[0].alternatives) == 2


@pytest.mark.parametrize("cache_layout", [0, 1])
def test_many_keys_are_shared_by_workgroups(cache_layout: int) -> None:
    """By sums that no other call needs and a state of counters, of which the plain calls know nothing."""
    program = Layer(keys=300, cache_layout=cache_layout, kv_layout=cache_layout).program()
    (call,) = [call for call in program.calls if call.kernel == "rotary_attention"]
    sums, arrived = (program.tensors[call.tensor(slot)] for slot in ("split_sums", "arrived"))
    assert [dim.base for dim in sums.dims] == [1, KV_HEADS, 3, HEADS // KV_HEADS, WIDTH + 4]
    assert sums.memory is Memory.ARENA
    assert [dim.base for dim in arrived.dims] == [1, KV_HEADS]
    assert (arrived.memory, arrived.constant) == (Memory.STATE, "")


def test_few_keys_are_one_workgroups() -> None:
    (call,) = [call for call in Layer(keys=128).program().calls if call.kernel == "rotary_attention"]
    assert not {arg.slot for arg in call.args} & {"split_sums", "arrived"}

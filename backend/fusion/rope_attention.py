"""For one token: rotary embedding, the writing of the caches and attention over them in one dispatch.

Offered as an alternative of the separate calls, which stay for more tokens and for software devices.
"""

from __future__ import annotations

import math

from ..kernels._generated.signatures import SIGNATURES
from ..kernels.dtypes import DType
from ..lowering.view import QUAD
from ..program import Dim
from .draft import Draft, Step

_FUSED, _ROTARY = "rotary_attention", "rotary_update_cache"
_ATTENTION, _PARTIAL, _REDUCE = "attention", "attention_decode_partial", "attention_decode_reduce"
_KEYS_EACH = 2 * SIGNATURES[_FUSED].constants["TILE_N"]  # that a workgroup takes before another one helps
_WORKGROUPS = 128  # that keep a large GPU busy


def offer_rope_attention(draft: Draft) -> None:
    """rotary_update_cache, and the one attention of its queries over its caches -> rotary_attention."""
    for rotary in [step for step in draft.steps if step.call.kernel == _ROTARY]:
        attention = _attention(draft, rotary)
        if attention and _takes(draft, rotary, attention[-1]) and _continues(draft, rotary, attention[0]):
            plain = [rotary, *attention]
            draft.offer([_made(draft, plain)], plain)


def _attention(draft: Draft, rotary: Step) -> list[Step]:
    """What reads the rotated queries, and nothing else does: one call, or two where the keys are split; else none."""
    queries = rotary.args["q_out"]
    whole, partial = draft.only_reader(queries, _ATTENTION), draft.only_reader(queries, _PARTIAL)
    if whole is not None or partial is None:
        return [] if whole is None else [whole]
    reduce = draft.only_reader(partial.args["partial"], _REDUCE)
    alone = reduce is not None and draft.only_reader(partial.args["stats"], _REDUCE) is reduce
    return [partial, reduce] if reduce is not None and alone else []


def _takes(draft: Draft, rotary: Step, last: Step) -> bool:
    """Whether rotary_attention has such heads and such a result, and there is ever one token."""
    heads, kv_heads, head_dim = (_number(rotary, name) for name in ("heads", "kv_heads", "head_dim"))
    tokens = draft.info(rotary.args["q_out"]).dims[1 if rotary.attrs["out_layout"] else 2]
    limits = SIGNATURES[_FUSED].constants
    shape = heads <= limits["MAX_ROWS"] * kv_heads and head_dim % QUAD == 0 and head_dim <= limits["MAX_HEAD"]
    same = draft.info(last.args["y"]).dtype is draft.info(rotary.args["q_out"]).dtype
    return shape and same and draft.range(tokens)[0] <= 1


def _continues(draft: Draft, rotary: Step, attention: Step) -> bool:
    """Whether attention's queries are the rotated ones and its keys and values the whole caches, at one position."""
    layouts = {"q": ("q_out", "q_layout", "out_layout"), "k": ("k_cache", "kv_layout", "cache_layout")}
    layouts["v"] = ("v_cache", "kv_layout", "cache_layout")
    for slot, (written, layout, made_layout) in layouts.items():
        if attention.attrs[f"{slot}_first"] != 0 or attention.attrs[layout] != rotary.attrs[made_layout]:
            return False
        if not _same(draft, attention.args[slot], rotary.args[written], layout=attention.attrs[layout]):
            return False
    if any(attention.attrs[name] != rotary.attrs[name] for name in ("heads", "kv_heads", "head_dim")):
        return False
    placed = any(attention.attrs[name] != 0 for name in ("causal", "window", "filled"))
    return not placed or draft.root(attention.args["position"]) == draft.root(rotary.args["position"])


def _same(draft: Draft, a: int, b: int, *, layout: int | float | Dim) -> bool:
    """Whether two tensors are one buffer with one number of tokens; layout 1 may have the heads side by side."""
    one, other = draft.info(a), draft.info(b)
    count = 2 if layout == 1 else 4
    return draft.root(a) == draft.root(b) and one.dims[:count] == other.dims[:count]


def _made(draft: Draft, plain: list[Step]) -> Step:
    rotary, attention, last = plain[0], plain[1], plain[-1]
    slots = rotary.args.keys() - {"q_out"}
    args: dict[str, int | None] = {slot: rotary.args[slot] for slot in slots}
    args |= {"mask": attention.args["mask"], **_split(draft, rotary), "y": last.args["y"]}
    given = {**attention.attrs, **last.attrs, **rotary.attrs}
    attrs = {name: given[name] for name in SIGNATURES[_FUSED].attr_names()}
    return draft.make(_FUSED, args, attrs, replaces=plain)


def _split(draft: Draft, rotary: Step) -> dict[str, int]:
    """What several workgroups need to share a KV head's keys, where there are enough keys for them.

    split_sums: scratch; arrived: zeros before and after every call.
    """
    heads, kv_heads, head_dim = (_number(rotary, name) for name in ("heads", "kv_heads", "head_dim"))
    batch, *middle, _ = draft.info(rotary.args["k_cache"]).dims
    keys = middle[0 if rotary.attrs["cache_layout"] else 1]
    if batch.terms or keys.terms:
        return {}
    n_heads = batch.base * kv_heads
    splits = min(math.ceil(keys.base / _KEYS_EACH), math.ceil(_WORKGROUPS / n_heads))
    if splits < 2:
        return {}
    dims = (batch.base, kv_heads, splits, heads // kv_heads, head_dim + 4)
    sums = draft.builder.tensor("split_sums", DType.F32, dims)
    return {"split_sums": sums, "arrived": draft.builder.state("arrived", DType.I32, dims[:2])}


def _number(step: Step, name: str) -> int:
    value = step.attrs[name]
    assert isinstance(value, int), (step.call.name, name)
    return value

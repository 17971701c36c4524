"""Emits attention: one call for any number of queries, or splits of a long cache and their sum for a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Node

from ...errors import Unsupported
from ...kernels._generated.signatures import SIGNATURES
from ...kernels.dtypes import DType
from ...lowering.graph import tensor_of
from ...lowering.lowering import Lowering, NotApplicable
from ...lowering.view import ONE, QUAD, ZERO, View, dense_strides, scale
from ...program import Dim
from .heads import check_head_dim, dense_tensor, heads_of, largest, no_mask, pair_of, position_tensor
from .masks import ALL, Seen

_LARGEST_HEAD = SIGNATURES["attention"].constants["MAX_HEAD"]
_SPLIT = SIGNATURES["attention_decode_partial"].constants["SPLIT_STEP"]  # keys of a split at least
_FEW_QUERIES = 8
_LONG_CACHE = 256  # keys from which on a few queries are worth two calls
_WORKGROUPS = 256  # what keeps a large device busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """softmax(soft_cap(q k^T * scale) + mask) v.

    q: [B, H, S, D]; k, v: [B, kv_heads, T, D]; mask: broadcasts to [B, H, S, T], of bools or to be added. filled: keys
    from position + S on are not there yet. nan_rows: a row that sees no key is NaN and not 0.
    """

    q: View
    k: View
    v: View
    scale: float
    mask: View | None = None
    seen: Seen = ALL
    filled: bool = False
    soft_cap: float = 0.0
    nan_rows: bool = False


def emit_attention(node: Node, attention: Attention, lowering: Lowering, *, layout: int) -> tuple[int, tuple[str, ...]]:
    """Declares the result in this layout (0: [B, H, S, D], 1: [B, S, H, D]), computes it and names the kernels."""
    batch, heads, queries, width = attention.q.sizes
    kv_heads, keys = attention.k.sizes[1:3]
    head_dim = check_head_dim(width, largest=_LARGEST_HEAD, multiple=QUAD, where=node.name)
    _check(node, attention)
    q = heads_of(attention.q, lowering, name=f"{node.name}.q")
    k, v = pair_of(attention.k, attention.v, lowering, names=(f"{node.name}.k", f"{node.name}.v"))
    args = {"q": q.tensor, "k": k.tensor, "v": v.tensor, "mask": _mask(node, attention, lowering)}
    args |= _scales((k.tensor, v.tensor), lowering)
    args["position"] = position_tensor(attention.seen.position, lowering)
    attrs: dict[str, int | float | Dim] = {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "q_layout": q.layout,
        "kv_layout": k.layout,
        "q_first": q.first,
        "k_first": k.first,
        "v_first": v.first,
        "masked": int(attention.mask is not None),
        "causal": int(attention.seen.causal),
        "window": attention.seen.window,
        "filled": int(attention.filled),
        "position_per_batch": 0,
        "scale": attention.scale,
        "soft_cap": attention.soft_cap,
    }
    last: dict[str, int | float | Dim] = {"y_layout": layout, "nan_rows": int(attention.nan_rows)}
    dims = (batch, heads, queries, width) if layout == 0 else (batch, queries, heads, width)
    splits = _splits(batch, kv_heads, queries, keys, lowering)
    if splits > 1:
        y = lowering.new(node, dims)
        rows = (batch, kv_heads, Dim(splits), scale(queries, heads.base // kv_heads.base))
        partial = lowering.builder.tensor(f"{node.name}.partial", DType.F32, (*rows, width))
        stats = lowering.builder.tensor(f"{node.name}.stats", DType.F32, (*rows, Dim(2)))
        writes = {"partial": partial, "stats": stats}
        lowering.call("attention_decode_partial", args | writes, attrs, node=node)
        counts: dict[str, int | float | Dim] = {"heads": heads, "kv_heads": kv_heads}
        lowering.call("attention_decode_reduce", writes | {"y": y}, counts | last, node=node)
        return y, ("attention_decode_partial", "attention_decode_reduce")
    y = lowering.new(node, dims)
    lowering.call("attention", args | {"y": y}, attrs | last, node=node)
    return y, ("attention",)


def bind_heads(node: Node, y: int, sizes: Sequence[Dim], lowering: Lowering) -> None:
    """Binds the node's value [B, H, S, D], or [H, S, D] with one batch entry, to a tensor [B, S, H, D]."""
    batch, heads, queries, width = sizes
    by_token = dense_strides((batch, queries, heads, width), lowering.multiply)
    strides = (by_token[0], by_token[2], by_token[1], by_token[3])
    rank = tensor_of(node).dim()
    lowering.bind_view(node, View(y, ZERO, tuple(sizes)[4 - rank :], strides[4 - rank :]))


def _check(node: Node, attention: Attention) -> None:
    q, k, v = attention.q.sizes, attention.k.sizes, attention.v.sizes
    if q[1].terms or k[1].terms or k[1].base == 0 or q[1].base % k[1].base:
        raise Unsupported(f"{node.name}: {q[1].base} query heads of {k[1].base} heads; need a multiple")
    if k != v or k[3] != q[3] or k[0] != q[0]:
        raise NotApplicable(f"{node.name}: keys and values of different shapes, or of another batch than the queries")


def _splits(batch: Dim, kv_heads: Dim, queries: Dim, keys: Dim, lowering: Lowering) -> int:
    """Parts of the keys that workgroups share; 1 for many queries or few keys."""
    if batch.terms or keys.terms or keys.base < _LONG_CACHE or largest(queries, lowering) > _FEW_QUERIES:
        return 1
    return min(-(-_WORKGROUPS // (batch.base * kv_heads.base)), -(-keys.base // _SPLIT))


def _scales(caches: tuple[int, int], lowering: Lowering) -> dict[str, int]:
    """Of int8 keys and values; of floats none."""
    infos = [lowering.builder.tensor_info(tensor) for tensor in caches]
    if any(info.dtype is not DType.I8 for info in infos):
        return {}
    roots = [info.alias_of if info.alias_of >= 0 else tensor for info, tensor in zip(infos, caches, strict=True)]
    return {slot: lowering.scales[root] for slot, root in zip(("k_scale", "v_scale"), roots, strict=True)}


def _mask(node: Node, attention: Attention, lowering: Lowering) -> int:
    """The mask with a size of 1 wherever it repeats."""
    if attention.mask is None:
        return no_mask(lowering)
    view = attention.mask
    dtypes = [lowering.builder.tensor_info(tensor).dtype for tensor in (view.tensor, attention.q.tensor)]
    if dtypes[0] not in (DType.U8, dtypes[1]):
        raise NotApplicable(f"{node.name}: a mask of {dtypes[0]}; offered bools and the dtype of the queries")
    missing = 4 - len(view.sizes)
    sizes, strides = (ONE,) * missing + view.sizes, (ZERO,) * missing + view.strides
    single = tuple(ONE if stride == ZERO else size for size, stride in zip(sizes, strides, strict=True))
    return dense_tensor(View(view.tensor, view.offset, single, strides), lowering, name=f"{node.name}.mask")

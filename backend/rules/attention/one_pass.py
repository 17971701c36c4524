"""Attention in one pass: scaled_dot_product_attention, whole or decomposed, eager attention, and ExecuTorch's own.

Keys and values are read where they lie, before a graph repeats them for grouped queries; the result is written token by
token, so that joining the heads afterwards is free.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import Node

from ...errors import Unsupported
from ...kernels.dtypes import DType
from ...lowering.graph import arguments, node_argument, tensor_of
from ...lowering.lowering import Lowered, Lowering, NotApplicable
from ...lowering.patterns import shape_of
from ...lowering.positions import item_chain, read_start
from ...lowering.view import ONE, ZERO, View
from .calls import Attention, bind_heads, emit_attention
from .heads import order
from .masks import ALL, Seen, read_mask
from .repeats import unrepeated
from .scores import PRODUCTS, read_scores

BY_TOKEN = (0, 2, 1, 3)  # [B, S, H, D] as [B, H, S, D]


def lower_sdpa(node: Node, lowering: Lowering) -> Lowered:
    """aten.scaled_dot_product_attention with all of its arguments."""
    values = arguments(node)
    query, key, value = (node_argument(values, name) for name in ("query", "key", "value"))
    if values["dropout_p"]:
        raise Unsupported(f"{node.name}: dropout_p {values['dropout_p']}; offered 0.0")
    scale = values.get("scale")
    mask = values["attn_mask"]
    if values["is_causal"] and mask is not None:
        raise Unsupported(f"{node.name}: is_causal beside attn_mask; offered one of them")
    seen = Seen(causal=True) if values["is_causal"] else ALL
    return _lower(
        node,
        (query, key, value),
        mask if isinstance(mask, Node) else None,
        lowering,
        scale=float(scale) if isinstance(scale, (int, float)) else _default_scale(query, node),
        seen=seen,
    )


def lower_product(node: Node, lowering: Lowering) -> Lowered:
    """The last product of attention that is written out."""
    found = read_scores(node, lowering)
    # A mask of the lowest f32 is -inf in f16, and what is finite in the graph must not become NaN.
    exact = tensor_of(node).dtype is torch.float16 or lowering.float_dtype(tensor_of(node).dtype) is DType.F32
    return _lower(
        node,
        (found.q, found.k, found.v),
        found.mask,
        lowering,
        scale=found.scale,
        soft_cap=found.soft_cap,
        nan_rows=found.nan_rows and exact,
        inner=tuple(found.nodes),
    )


def lower_custom_sdpa(node: Node, lowering: Lowering) -> Lowered:
    """llama.custom_sdpa: [B, S, H, D], keys and values a whole cache."""
    values = arguments(node)
    query, key, value = (lowering.view(node_argument(values, name)) for name in ("query", "key", "value"))
    attention = read_llama(node, values, (query, key, value), lowering)
    _, kernels = emit_attention(node, attention, lowering, layout=1)
    return Lowered((node,), kernels)


def read_llama(node: Node, values: Mapping[str, object], qkv: tuple[View, View, View], lowering: Lowering) -> Attention:
    """What the operators of ExecuTorch's llama library compute of [B, S, H, D] and caches [B, T, H, D]."""
    if values["drpout_p"]:
        raise Unsupported(f"{node.name}: drpout_p {values['drpout_p']}; offered 0.0")
    mask, causal = values["attn_mask"], bool(values["is_causal"])
    if mask is not None and causal:
        raise Unsupported(f"{node.name}: is_causal beside attn_mask; offered one of them")
    q, k, v = (order(view, BY_TOKEN) for view in qkv)
    scale = values["scale"]
    return Attention(
        q=q,
        k=k,
        v=v,
        scale=float(scale) if isinstance(scale, (int, float)) else max(q.sizes[3].base, 1) ** -0.5,
        mask=lowering.view(mask) if isinstance(mask, Node) else None,
        seen=Seen(causal, 0, read_start(values["start_pos"], node.name)),
        filled=mask is None and not causal,
    )


WHOLE = (torch.ops.aten.scaled_dot_product_attention.default,)
RULES = {
    "aten.scaled_dot_product_attention.default": lower_sdpa,
    "llama.custom_sdpa.default": lower_custom_sdpa,
    **dict.fromkeys(PRODUCTS, lower_product),
}


def _default_scale(query: Node, node: Node) -> float:
    width = shape_of(query)[-1]
    if not isinstance(width, int):
        raise Unsupported(f"{node.name}: head size {width}; it must be static")
    return float(width**-0.5)


def _lower(
    node: Node,
    qkv: tuple[Node, Node, Node],
    mask: Node | None,
    lowering: Lowering,
    *,
    scale: float,
    seen: Seen = ALL,
    soft_cap: float = 0.0,
    nan_rows: bool = False,
    inner: tuple[Node, ...] = (),
) -> Lowered:
    query, key, value = qkv
    rank = tensor_of(query).dim()
    if rank not in (3, 4) or tensor_of(key).dim() != rank or tensor_of(value).dim() != rank:
        raise NotApplicable(f"{node.name}: queries, keys and values of rank {rank}; offered 3, 4")
    (keys, between_k), (values, between_v) = unrepeated(key), unrepeated(value)
    if shape_of(keys) != shape_of(values):
        keys, values, between_k, between_v = key, value, (), ()
    known = None if mask is None else read_mask(mask, lowering)
    left = None if known is None else known.left
    q, k, v = (_of_rank_4(lowering.view(item)) for item in (query, keys, values))
    attention = Attention(
        q=q,
        k=k,
        v=v,
        scale=scale,
        mask=None if left is None else lowering.view(left),
        seen=seen if known is None else known.seen,
        soft_cap=soft_cap,
        nan_rows=nan_rows,
    )
    by_token = rank == 4 and (tensor_of(node).dim() == 4 or q.sizes[0] == ONE)
    y, kernels = emit_attention(node, attention, lowering, layout=int(by_token))
    if by_token:
        bind_heads(node, y, (*q.sizes[:3], v.sizes[3]), lowering)
    nodes = (*item_chain(lowering, mask), *between_k, *between_v, *inner, node)
    return Lowered(tuple(dict.fromkeys(nodes)), kernels)


def _of_rank_4(view: View) -> View:
    """[B, S, D] as [B, 1, S, D]."""
    if len(view.sizes) == 4:
        return view
    sizes, strides = list(view.sizes), list(view.strides)
    sizes.insert(1, ONE)
    strides.insert(1, ZERO)
    return View(view.tensor, view.offset, tuple(sizes), tuple(strides))

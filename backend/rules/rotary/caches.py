"""Norms and rotations of queries and keys and the writing of both caches in one call, where a layer has all of them.

The call stands in the place of the second cache's update. The node of the rotated queries only declares their tensor,
and the first cache's update only says where the cache is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from ...errors import Unsupported
from ...kernels.dtypes import DType
from ...lowering.lowering import Lowered, Lowering, NotApplicable
from ...lowering.patterns import skip
from ...lowering.positions import item_chain
from ...lowering.state import updatable
from ...lowering.view import View
from ...program import Dim
from ..attention.caches import RULES as CACHE_RULES
from ..attention.caches import new_heads
from ..attention.heads import heads_of, order, pair_of
from ..attention.llama_ops import with_results
from ..norms import Norm
from .groups import Group, HeadsRead, group_of_keys, group_of_query, group_of_values
from .one_pass import RULES as ROTARY_RULES
from .one_pass import check_tables, make_tables, token_axes

_KERNEL = "rotary_update_cache"


def lower_query(node: Node, lowering: Lowering) -> Lowered:
    """The end of the queries' rotation."""
    group = group_of_query(node, lowering)
    if group is None:
        raise NotApplicable(f"{node.name} rotates no queries of a layer with caches")
    lowering.new(node)
    return Lowered((*_chain(group, lowering), node), (_KERNEL,))


def lower_update(node: Node, lowering: Lowering) -> Lowered:
    """The update of a layer's first or second cache."""
    group = group_of_keys(node, lowering)
    if group is None:
        group = group_of_values(node, lowering)
        if group is None:
            raise NotApplicable(f"{node.name} writes no cache beside rotated keys")
        last = group

        def emit() -> tuple[int, ...]:
            _emit(last, lowering)
            return ()

        lowering.once((_KERNEL, node), emit)
    update = group.k if group.k.node is node else group.v
    target = updatable(node, update.cache, lowering)
    assert target is not None, f"{node.name} was found to be in place"
    if update.result is not None:
        lowering.bind_view(update.result, target)
    results = () if update.result in (None, node) else (update.result,)
    return Lowered((*_chain(group, lowering), node, *results), (_KERNEL,))


WHOLE = ()
RULES = {
    **dict.fromkeys(ROTARY_RULES, lower_query),
    **dict.fromkeys(CACHE_RULES, lower_update),
    **with_results(lower_update),
}


def _chain(group: Group, lowering: Lowering) -> tuple[Node, ...]:
    rotations = (group.query.rotation, group.key.rotation)
    tables = (table for rotation in rotations for table in (rotation.cos, rotation.sin))
    return item_chain(lowering, *tables, group.k.places, group.v.places)


def _emit(group: Group, lowering: Lowering) -> None:
    try:
        _call(group, lowering)
    except NotApplicable as error:  # the group's other nodes count on it
        raise Unsupported(str(error)) from error


def _call(group: Group, lowering: Lowering) -> None:
    rotation, node = group.query.rotation, group.v.node
    tables = make_tables(rotation, lowering)
    queries, keys, values = _view(group.query, lowering), _view(group.key, lowering), new_heads(group.v, lowering)
    q = heads_of(queries, lowering, name=f"{group.rotated.name}.x", multiple=1)
    k, v = pair_of(keys, values, lowering, names=(f"{group.k.new.name}.x", group.v.new.name), multiple=1)
    check_tables(tables, q.tensor, lowering, where=node.name)
    caches = [updatable(update.node, update.cache, lowering) for update in (group.k, group.v)]
    norm = group.query.norm
    position, mode = group.k.position(lowering)
    attrs: dict[str, int | float | Dim] = {
        "heads": queries.sizes[1],
        "kv_heads": keys.sizes[1],
        "head_dim": queries.sizes[3],
        "q_layout": q.layout,
        "kv_layout": k.layout,
        "q_first": q.first,
        "k_first": k.first,
        "v_first": v.first,
        "out_layout": 0 if token_axes(rotation)[2] == 2 else 1,
        "cache_layout": 2 - group.k.axis,
        "normed": int(norm is not None),
        "rotary_dim": rotation.width,
        "interleaved": int(rotation.interleaved),
        "table_rows": tables.rows,
        "position_mode": mode,
        "eps": 0.0 if norm is None else norm.eps,
    }
    width = queries.sizes[3].base
    args = {"q": q.tensor, "k": k.tensor, "v": v.tensor}
    args |= {"q_norm": _weight(norm, width, lowering), "k_norm": _weight(group.key.norm, width, lowering)}
    args |= {"cos_table": tables.cos, "sin_table": tables.sin, "position": position}
    args |= {"q_out": lowering.view(group.rotated).tensor}
    for slot, cache in zip(("k_cache", "v_cache"), caches, strict=True):
        assert cache is not None, f"{node.name} was found to be in place"
        args[slot] = cache.tensor
    lowering.call(_KERNEL, args, attrs, node=node)


def _view(heads: HeadsRead, lowering: Lowering) -> View:
    return order(lowering.view(heads.source), heads.axes)


def _weight(norm: Norm | None, width: int, lowering: Lowering) -> int:
    """The factors of a head's norm in f32; a placeholder without a norm."""
    if norm is None:
        return _constant("no_norm", lambda: np.ones(1, np.float32), 1, lowering)
    if norm.weight is None:
        return _constant(f"norm of {width}", lambda: np.full(width, norm.offset, np.float32), width, lowering)
    constant = lowering.constant(skip(norm.weight, casts=True))
    assert constant is not None, f"{norm.weight.name} was found to be constant"

    def data() -> npt.NDArray[np.generic]:
        values: npt.NDArray[np.float32] = (constant.array().float().reshape(width) + norm.offset).numpy()
        return values

    return _constant(f"{constant.name}.norm", data, width, lowering)


def _constant(name: str, data: Callable[[], npt.NDArray[np.generic]], width: int, lowering: Lowering) -> int:
    def make() -> tuple[int, ...]:
        return (lowering.builder.constant(name, DType.F32, (width,), data=data),)

    return lowering.once(("head norm", name), make)[0]

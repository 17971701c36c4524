"""ExecuTorch's own operators that write caches in place, as export makes functions of them.

auto_functionalized_v2(llama.update_cache, value=..., start_pos=..., _cache_base_index=0, _all_bases=[cache]) gives the
operator's result and, from element 1 on, the caches as they are afterwards.
"""

from __future__ import annotations

from torch.fx import Node
from torch.fx.node import Argument

from ..errors import Unsupported
from .attention import BY_TOKEN, read_llama
from .attention_calls import emit_attention
from .caches import FROM_FIRST, emit_update
from .heads import order, position_tensor
from .lowering import Lowered, Lowering
from .positions import read_start
from .state import updatable
from .view import View

_FUNCTIONALIZED = "auto_functionalized_v2"
_UPDATE, _UPDATE_EACH = "llama.update_cache.default", "llama.update_cache_with_indices.default"
_SDPA = "llama.sdpa_with_kv_cache.default"
Results = dict[Argument, Node]  # by index among all results
_EACH_OF_BATCH = 3  # position_mode of indices [B, S]


def lower_functionalized(node: Node, lowering: Lowering) -> Lowered:
    """One of the operators; binds all results that someone reads."""
    name = str(node.args[0])
    if name not in (_UPDATE, _UPDATE_EACH, _SDPA):
        raise Unsupported(f"{node.name}: {name}; offered {_UPDATE}, {_UPDATE_EACH}, {_SDPA}")
    results: Results = {user.args[1]: user for user in node.users}

    def emit() -> tuple[int, ...]:
        if name == _SDPA:
            _attend(node, results, lowering)
        else:
            _update(node, results, lowering)
        return ()

    lowering.once(("functionalized", node), emit)
    kernels = ("update_cache", "update_cache", "attention") if name == _SDPA else ("update_cache",)
    return Lowered((node, *results.values()), kernels)


def lower_result(node: Node, lowering: Lowering) -> Lowered:
    """A result of one of the operators, which is lowered once, with all of its results."""
    source = node.args[0]
    assert isinstance(source, Node)
    return lower_functionalized(source, lowering)


WHOLE = ()
RULES = {_FUNCTIONALIZED: lower_functionalized, f"getitem of {_FUNCTIONALIZED}": lower_result}


def _update(node: Node, results: Results, lowering: Lowering) -> None:
    if 0 in results:
        raise Unsupported(f"{node.name}: its own result is read, which means nothing")
    new = _tensor(node, "value")
    indices = node.kwargs.get("indices")
    if isinstance(indices, Node):
        position, mode = lowering.operand(indices), _EACH_OF_BATCH
    else:
        position, mode = _position(node, lowering), FROM_FIRST
    _write(node, "cache", new, results, position, mode, lowering)


def _attend(node: Node, results: Results, lowering: Lowering) -> None:
    position = _position(node, lowering)
    keys, values = (
        _write(node, f"{name}_cache", _tensor(node, name), results, position, FROM_FIRST, lowering)
        for name in ("key", "value")
    )
    if 0 not in results:
        return
    defaults = {"attn_mask": None, "drpout_p": 0.0, "is_causal": False, "scale": None}
    query = lowering.view(_tensor(node, "query"))
    attention = read_llama(node, {**defaults, **node.kwargs}, (query, keys, values), lowering)
    emit_attention(results[0], attention, lowering, layout=1)


def _write(node: Node, name: str, new: Node, results: Results, position: int, mode: int, lowering: Lowering) -> View:
    """Writes into a cache [B, T, H, D], in place if it may, and gives the cache as it is then."""
    bases, index = node.kwargs.get("_all_bases"), node.kwargs.get(f"_{name}_base_index")
    views = [key for key in node.kwargs if key.startswith(f"_{name}_") and key != f"_{name}_base_index"]
    if not isinstance(bases, (list, tuple)) or not isinstance(index, int) or views:
        raise Unsupported(f"{node.name}: {name} is a view of another tensor; need a whole one")
    source = bases[index]
    assert isinstance(source, Node)
    cache = updatable(node, source, lowering)
    if cache is None:
        before = lowering.view(source)
        dtype = lowering.builder.tensor_info(before.tensor).dtype
        cache = lowering.dense_view(lowering.builder.tensor(f"{node.name}.{name}", dtype, before.sizes))
        lowering.copy(before, cache, name=f"{node.name}.{name}")
    emit_update(node, cache, order(lowering.view(new), BY_TOKEN), position, lowering, layout=1, mode=mode)
    if 1 + index in results:
        lowering.bind_view(results[1 + index], cache)
    return cache


def _position(node: Node, lowering: Lowering) -> int:
    return position_tensor(read_start(node.kwargs["start_pos"], node.name), lowering)


def _tensor(node: Node, name: str) -> Node:
    value = node.kwargs[name]
    assert isinstance(value, Node), f"{node.name}: {name} is {value}"
    return value

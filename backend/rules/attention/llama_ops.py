"""ExecuTorch's own operators that write caches in place, as export makes functions of them.

auto_functionalized_v2(llama.update_cache, value=..., start_pos=..., _cache_base_index=0, _all_bases=[cache]) gives the
operator's result and, from element 1 on, the caches as they are afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import Node

from ...errors import Unsupported
from ...lowering.aten import FUNCTIONALIZED
from ...lowering.lowering import Lowered, Lowering
from ...lowering.positions import read_start
from ...lowering.state import updatable
from ...lowering.view import View
from .caches import Update, check_cache, emit_update
from .calls import emit_attention
from .one_pass import read_llama

_UPDATE, _UPDATE_EACH = "llama.update_cache.default", "llama.update_cache_with_indices.default"
_SDPA = "llama.sdpa_with_kv_cache.default"


def lower_functionalized(node: Node, lowering: Lowering) -> Lowered:
    """One of the operators; binds all results that someone reads."""
    name = str(node.args[0])
    if name not in (_UPDATE, _UPDATE_EACH, _SDPA):
        raise Unsupported(f"{node.name}: {name}; offered {_UPDATE}, {_UPDATE_EACH}, {_SDPA}")

    def emit() -> tuple[int, ...]:
        if name == _SDPA:
            _attend(node, lowering)
        else:
            _update(node, lowering)
        return ()

    lowering.once(("functionalized", node), emit)
    kernels = ("update_cache", "update_cache", "attention") if name == _SDPA else ("update_cache",)
    return Lowered((node, *node.users), kernels)


def with_results(rule: Callable[[Node, Lowering], Lowered]) -> dict[str, Callable[[Node, Lowering], Lowered]]:
    """The rule for such an operator, and for each of its results, which is lowered with it."""

    def lower_result(node: Node, lowering: Lowering) -> Lowered:
        source = node.args[0]
        assert isinstance(source, Node)
        return rule(source, lowering)

    return {FUNCTIONALIZED: rule, f"getitem of {FUNCTIONALIZED}": lower_result}


WHOLE = ()
RULES = with_results(lower_functionalized)


def read_custom_update(node: Node) -> Update:
    """llama.update_cache as an update of [B, T, H, D]. Raises Unsupported or NotApplicable for anything else."""
    name = str(node.args[0])
    if name not in (_UPDATE, _UPDATE_EACH):
        raise Unsupported(f"{node.name}: {name} as an int8 cache; offered {_UPDATE}, {_UPDATE_EACH}")
    if any(user.args[1] == 0 for user in node.users):
        raise Unsupported(f"{node.name}: its own result is read, which means nothing")
    return _read(node, "value", "cache")


def _update(node: Node, lowering: Lowering) -> None:
    _write(read_custom_update(node), lowering)


def _attend(node: Node, lowering: Lowering) -> None:
    keys, values = (_write(_read(node, name, f"{name}_cache"), lowering) for name in ("key", "value"))
    result = next((user for user in node.users if user.args[1] == 0), None)
    if result is None:
        return
    defaults = {"attn_mask": None, "drpout_p": 0.0, "is_causal": False, "scale": None}
    query = lowering.view(_tensor(node, "query"))
    attention = read_llama(node, {**defaults, **node.kwargs}, (query, keys, values), lowering)
    emit_attention(result, attention, lowering, layout=1)


def _read(node: Node, new: str, cache: str) -> Update:
    bases, index = node.kwargs.get("_all_bases"), node.kwargs.get(f"_{cache}_base_index")
    views = [key for key in node.kwargs if key.startswith(f"_{cache}_") and key != f"_{cache}_base_index"]
    if not isinstance(bases, (list, tuple)) or not isinstance(index, int) or views:
        raise Unsupported(f"{node.name}: {cache} is a view of another tensor; need a whole one")
    source, value = bases[index], _tensor(node, new)
    assert isinstance(source, Node)
    check_cache(node, source, value, 1)
    result = next((user for user in node.users if user.args[1] == 1 + index), None)
    places = node.kwargs.get("indices")
    if isinstance(places, Node):
        return Update(node, result, source, value, 1, None, places)
    return Update(node, result, source, value, 1, read_start(node.kwargs["start_pos"], node.name), None)


def _write(update: Update, lowering: Lowering) -> View:
    """Writes in place if it may, and gives the cache as it is then."""
    cache = updatable(update.node, update.cache, lowering)
    if cache is None:
        before = lowering.view(update.cache)
        dtype = lowering.builder.tensor_info(before.tensor).dtype
        cache = lowering.dense_view(lowering.builder.tensor(f"{update.node.name}.cache", dtype, before.sizes))
        lowering.copy(before, cache, name=f"{update.node.name}.cache")
    emit_update(update, cache.tensor, lowering)
    if update.result is not None:
        lowering.bind_view(update.result, cache)
    return cache


def _tensor(node: Node, name: str) -> Node:
    value = node.kwargs[name]
    assert isinstance(value, Node), f"{node.name}: {name} is {value}"
    return value

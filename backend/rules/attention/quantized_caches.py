"""KV caches of int8 with a scale for each token and head (CompileOptions.kv_cache), written and read by one layer.

Only attention reads codes, so a cache becomes int8 where its one update feeds nothing but one attention. The rule of
the attention then writes both caches and reads their codes; the updates' own rule only says where they lie. Every
decision is made from the graph, so that all nodes of a layer make the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from ...errors import Unsupported
from ...kernels.dtypes import DType
from ...lowering.aten import FUNCTIONALIZED
from ...lowering.graph import STATE_KEY, arguments, mutated_buffer, node_argument, op_name
from ...lowering.lowering import Lowered, Lowering, NotApplicable
from ...lowering.patterns import is_op, skip
from ...lowering.positions import item_chain
from ...lowering.state import SHARING
from . import one_pass as attention
from .caches import RULES as CACHE_RULES
from .caches import Update, emit_update, read_update
from .llama_ops import read_custom_update, with_results
from .repeats import unrepeated

_ATTENTION = ("aten.scaled_dot_product_attention.default", "llama.custom_sdpa.default")
_KERNEL = "update_cache_q8"


@dataclass(frozen=True, slots=True)
class Layer:
    """An attention and the updates of the two caches that it alone reads."""

    attention: Node
    updates: tuple[Update, Update]


def lower_attention(node: Node, lowering: Lowering) -> Lowered:
    """Both updates and the attention. Refuses, with kv_cache "i8", an attention whose caches cannot be int8."""
    if lowering.options.kv_cache != "i8":
        raise NotApplicable(f"{node.name}: kv_cache is {lowering.options.kv_cache!r}")
    layer = _layer_of(node, lowering)
    for update in layer.updates:
        codes, scale = _bind(update, lowering)
        emit_update(update, codes, lowering, scale=scale)
    lowered = attention.RULES[op_name(node)](node, lowering)
    inner = tuple(item for update in layer.updates for item in _nodes(update, lowering))
    return Lowered(tuple(dict.fromkeys((*inner, *lowered.nodes))), (_KERNEL, _KERNEL, *lowered.kernels))


def lower_update(node: Node, lowering: Lowering) -> Lowered:
    """One of the updates: says where its cache lies, which the rule of the attention then writes."""
    if lowering.options.kv_cache != "i8":
        raise NotApplicable(f"{node.name}: kv_cache is {lowering.options.kv_cache!r}")
    if not any(mutated_buffer(lowering.program, cache) for cache in node.all_input_nodes):
        raise NotApplicable(f"{node.name} updates no state")
    try:
        update = _read(node, lowering)
        readers = [] if update.result is None else _readers(update.result, node)
        if len(readers) != 1 or not is_op(readers[0], *_ATTENTION):
            raise Unsupported(f"{node.name}: an int8 cache is read by one attention alone; set kv_cache='model'")
        layer = _layer_of(readers[0], lowering)
    except NotApplicable as error:
        if not any(is_op(reader, *_ATTENTION) for reader in _readers(node, node)):
            raise
        raise Unsupported(f"{error}: such a cache cannot be int8; set kv_cache='model'") from error
    _bind(next(item for item in layer.updates if item.node is node), lowering)
    return Lowered(_nodes(update, lowering), (_KERNEL,), needs=(layer.attention,))


WHOLE = ()
RULES = {
    **dict.fromkeys(_ATTENTION, lower_attention),
    **dict.fromkeys(CACHE_RULES, lower_update),
    **with_results(lower_update),
}


def _layer_of(node: Node, lowering: Lowering) -> Layer:
    """Raises NotApplicable for attention without caches, Unsupported for caches that other nodes see."""
    values = arguments(node)
    found = []
    for name in ("key", "value"):
        source = skip(unrepeated(node_argument(values, name))[0])
        writer = source.args[0] if is_op(source, "getitem") else source
        assert isinstance(writer, Node)
        if not is_op(writer, *CACHE_RULES, FUNCTIONALIZED):
            raise NotApplicable(f"{node.name}: its {name} is no cache")
        update = _read(writer, lowering)
        state = mutated_buffer(lowering.program, update.cache)
        if state is None:
            raise NotApplicable(f"{node.name}: its {name} is no state")
        handed_out = lowering.program.graph_signature.user_outputs
        if update.result is None or update.result.name in handed_out or _readers(update.result, writer) != [node]:
            raise Unsupported(f"{node.name}: others read its {name} cache, which cannot be int8; set kv_cache='model'")
        if list(update.cache.users) != [writer]:
            raise Unsupported(f"{node.name}: others read {update.cache.name} as it was; set kv_cache='model'")
        if state.data is not None and bool(state.data.any()):
            raise Unsupported(f"{node.name}: {update.cache.name} is not of zeros at first; set kv_cache='model'")
        found.append(update)
    return Layer(node, (found[0], found[1]))


def _read(node: Node, lowering: Lowering) -> Update:
    return read_custom_update(node) if is_op(node, FUNCTIONALIZED) else read_update(node, lowering)


def _readers(node: Node, update: Node) -> list[Node]:
    """Who reads a value but its update, through whatever views and repetitions of it."""
    pending, readers = [node], []
    for item in pending:
        for user in item.users:
            if op_name(user) in SHARING or is_op(user, "aten.repeat_interleave.self_int"):
                pending.append(user)
            elif user is not update and user not in readers and user.op != "output":
                readers.append(user)
    return readers


def _nodes(update: Update, lowering: Lowering) -> tuple[Node, ...]:
    results = tuple(update.node.users) if is_op(update.node, FUNCTIONALIZED) else ()
    return (*item_chain(lowering, update.places), update.node, *results)


def _bind(update: Update, lowering: Lowering) -> tuple[int, int]:
    """The codes and the scales of a cache, the first of which the graph's values then are."""
    state = mutated_buffer(lowering.program, update.cache)
    assert state is not None, f"{update.cache.name} was found to be a state"

    def make() -> tuple[int, ...]:
        key = update.cache.meta.get(STATE_KEY, "")
        shared = (f"{key}:codes", f"{key}:scale") if key else ("", "")
        codes = lowering.builder.state(f"{state.name}.codes", DType.I8, state.shape, shared=shared[0])
        return codes, lowering.builder.state(f"{state.name}.scale", DType.F32, state.shape[:-1], shared=shared[1])

    codes, scale = lowering.once(("int8 cache", state.name), make)
    lowering.scales[codes] = scale
    assert update.result is not None
    for node in (update.cache, update.result):
        lowering.bind_view(node, lowering.dense_view(codes))
    return codes, scale

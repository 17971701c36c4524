"""What eager PyTorch asks of an index, asked here too: that it names one of the places there are.

Operators say which of their operands index what, whichever rule lowers them. Where an index comes from an input, the
player checks it before a run; where it is computed, a call of `check_index` reports what lies outside, and an operator
that writes by it finds that named nowhere. What can be proven here costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels.dtypes import DType
from ..program import Dim
from .aten import CASTS, FUNCTIONALIZED, STILL
from .graph import arguments, mutated_buffer, node_argument, op_name, operator_of, tensor_of
from .index_sources import Source, read_source
from .indices import emit_check
from .lowering import Lowering
from .patterns import is_known, is_op, is_tensor, operands, scalar
from .view import ONE, ZERO, View, add, collapse, scale
from .view_changes import axis_of

_STILL = STILL | CASTS | {"aten.squeeze.dims"}
_SMALL = {torch.bool: (0, 1), torch.uint8: (0, 255), torch.int8: (-128, 127)}
# Those that name places of their input along `dim`; of two results, as the second.
_PLACES = ("aten.argmax.default", "aten.argmin.default", "aten.max.dim", "aten.min.dim", "aten.topk.default")


@dataclass(frozen=True, slots=True)
class Use:
    """An index, a tensor or a size, that must lie in [low, high]. what: those places, to name them in an error."""

    index: Node | int
    low: Dim
    high: Dim
    what: str


def check_indices(node: Node, lowering: Lowering) -> None:
    """Asks for what a node's indices may be, before it is lowered. Raises Unsupported for a constant outside."""
    uses = _USES.get(op_name(node))
    for use in () if uses is None else uses(node, lowering):
        require(node, use, lowering)


def require(user: Node, use: Use, lowering: Lowering) -> None:
    """Asks for one of them."""
    if _is_inside(use, lowering):
        return
    _refuse_constant(user, use, lowering)
    inner = _before_wrap(use, lowering)
    if (inner is None or not ask_host(inner, lowering)) and not ask_host(use, lowering):
        _ask_device(user, use, lowering)


def _is_inside(use: Use, lowering: Lowering) -> bool:
    """Whether no run can have an index outside."""
    known = _known_range(use.index, lowering)
    return known is not None and _is_within(known, use, lowering)


def _is_within(found: tuple[Dim, Dim], use: Use, lowering: Lowering) -> bool:
    return all(
        lowering.builder.range_of(add(larger, scale(smaller, -1)))[0] >= 0
        for smaller, larger in ((use.low, found[0]), (found[1], use.high))
    )


def _known_range(index: Node | int, lowering: Lowering) -> tuple[Dim, Dim] | None:
    """The least and the largest that an index can be; None where only a run tells."""
    if not isinstance(index, Node) or not is_tensor(index):
        return (Dim(index), Dim(index)) if isinstance(index, int) else None
    constant = lowering.constant(index)
    if constant is not None and constant.data is not None and constant.data.numel():
        return Dim(int(constant.data.min())), Dim(int(constant.data.max()))
    node = index
    while op_name(node) in _STILL and isinstance(node.args[0], Node) and tensor_of(node).dtype not in _SMALL:
        node = node.args[0]
    if tensor_of(node).dtype in _SMALL:
        low, high = _SMALL[tensor_of(node).dtype]
        return Dim(low), Dim(high)
    if op_name(node) == "getitem" and node.args[1] == 1 and isinstance(node.args[0], Node):
        node = node.args[0]
    values = arguments(node) if operator_of(node) is not None else {}
    if is_op(node, *_PLACES):
        source = node_argument(values, "self")
        sizes = lowering.dims(tensor_of(source).shape)
        axis = values["dim"]
        return ZERO, add(lowering.product(sizes) if axis is None else sizes[axis_of(axis, len(sizes))], -1)
    if is_op(node, "aten.remainder.Scalar", "aten.remainder.Tensor"):
        divisor = scalar(values["other"], lowering) if is_known(values["other"], lowering) else None
        return (ZERO, Dim(int(divisor) - 1)) if divisor is not None and divisor > 0 else None
    if is_op(node, "aten.clamp.default") and all(isinstance(values[name], int) for name in ("min", "max")):
        return lowering.size(values["min"]), lowering.size(values["max"])
    return None


def _refuse_constant(user: Node, use: Use, lowering: Lowering) -> None:
    known = _known_range(use.index, lowering)
    fixed = isinstance(use.index, int) or lowering.constant(use.index) is not None
    if known is None or not fixed or use.low.terms or use.high.terms:
        return
    value = known[0].base if known[0].base < use.low.base else known[1].base
    raise Unsupported(f"{user.name}: index {value}; {use.what} are {use.low.base} to {use.high.base}")


def _before_wrap(use: Use, lowering: Lowering) -> Use | None:
    """What where(i < 0, i + n, i) asks of i; None for any other index."""
    node = use.index
    while isinstance(node, Node) and op_name(node) in _STILL and isinstance(node.args[0], Node):
        node = node.args[0]
    if not is_op(node, "aten.where.self") or not isinstance(node, Node):
        return None
    condition, wrapped, index = node.args
    if not is_op(condition, "aten.lt.Scalar", "aten.lt.Tensor") or not is_op(
        wrapped, "aten.add.Tensor", "aten.add.Scalar"
    ):
        return None
    assert isinstance(condition, Node)
    assert isinstance(wrapped, Node)
    (compared, zero), (moved, step) = operands(condition), operands(wrapped)
    count = scalar(step, lowering) if is_known(step, lowering) else None
    if compared is not index or moved is not index or scalar(zero, lowering) != 0 or count is None:
        return None
    assert isinstance(index, Node)
    found = replace(use, index=index, low=add(use.low, -int(count)))
    return found if _is_within((ZERO, Dim(int(count) - 1)), use, lowering) else None


def _bounds(source: Source, use: Use) -> tuple[Dim, Dim] | None:
    """What the source's own elements may be; None where the places along which something is added are not all met."""
    spread = source.spread()
    if spread is None or not source.is_exact():
        return None
    if source.sign > 0:
        return add(use.low, scale(spread[0], -1)), add(use.high, scale(spread[1], -1))
    return add(spread[1], scale(use.high, -1)), add(spread[0], scale(use.low, -1))


def ask_host(use: Use, lowering: Lowering) -> bool:
    """Whether the index comes from an input, is known to be inside, or is a size that export has guarded."""
    source = read_source(use.index, lowering)
    bounds = None if source is None else _bounds(source, use)
    if source is None or bounds is None:
        return False
    if source.view is None:
        return _ask_symbol(source, use, lowering) or not is_tensor(use.index)
    view = source.view
    if view.tensor not in lowering.given:
        return False
    kept = [(size, stride) for size, stride in zip(view.sizes, view.strides, strict=True) if stride != ZERO]
    places = collapse([size for size, _ in kept], [stride for _, stride in kept], multiply=lowering.multiply)
    sizes, strides = [size for size, _ in places], [stride for _, stride in places]
    lowering.builder.check(*bounds, use.what, tensor=view.tensor, offset=view.offset, sizes=sizes, strides=strides)
    return True


def _ask_symbol(source: Source, use: Use, lowering: Lowering) -> bool:
    """Whether a size is known to be inside, or depends on an integer input, which then is checked."""
    spread = source.spread()
    assert spread is not None
    if _is_within(spread, use, lowering):
        return True
    for coefficient, index in spread[0].terms:
        if index in lowering.integer_symbols() and coefficient in (1, -1):
            symbol = Dim(0, ((1, index),))
            low, high = (add(part, scale(symbol, -coefficient)) for part in spread)
            ends = add(use.low, scale(low, -1)), add(use.high, scale(high, -1))
            low, high = ends if coefficient > 0 else (scale(ends[1], -1), scale(ends[0], -1))
            lowering.builder.check(low, high, use.what, symbol=symbol)
            return True
    return False


def _ask_device(user: Node, use: Use, lowering: Lowering) -> None:
    """Has a call look at the index, and keeps what may be written by."""
    source = read_source(use.index, lowering)
    bounds = None if source is None else _bounds(source, use)
    if source is not None and source.view is not None and bounds is not None and _is_i32(source.view, lowering):
        emit_check(user, source.view, bounds, lowering, what=use.what)
    elif isinstance(use.index, Node) and is_tensor(use.index) and lowering.has_value(use.index):
        emit_check(user, lowering.view(use.index), (use.low, use.high), lowering, what=use.what)


def _is_i32(view: View, lowering: Lowering) -> bool:
    return lowering.builder.tensor_info(view.tensor).dtype is DType.I32


def _name(node: Node, lowering: Lowering) -> str:
    """What a user calls a tensor."""
    known = lowering.constant(node) or mutated_buffer(lowering.program, node)
    return node.name if known is None else known.name


def _along(node: Node, axis: int, lowering: Lowering, *, negative: bool = False) -> tuple[Dim, Dim, str]:
    size = lowering.dims(tensor_of(node).shape)[axis]
    low = scale(size, -1) if negative else ZERO
    return low, add(size, -1), f"places along dimension {axis} of {_name(node, lowering)}"


def _rows(node: Node, lowering: Lowering) -> Iterator[Use]:
    """Embeddings."""
    values = arguments(node)
    table = node_argument(values, "weight")
    low, high, _ = _along(table, 0, lowering)
    yield Use(node_argument(values, "indices"), low, high, f"rows of {_name(table, lowering)}")


def _one_axis(node: Node, lowering: Lowering) -> Iterator[Use]:
    """index_select, gather, index_copy, scatter: no negative ones."""
    values = arguments(node)
    source = node_argument(values, "self")
    rank = tensor_of(source).dim()
    if rank:
        yield Use(node_argument(values, "index"), *_along(source, axis_of(values["dim"], rank), lowering))


def _each_axis(node: Node, lowering: Lowering) -> Iterator[Use]:
    """x[i, j, ...]: negative ones count from the end."""
    values = arguments(node)
    source, indices = node_argument(values, "self"), values["indices"]
    assert isinstance(indices, (list, tuple))
    axis = 0
    for index in indices:
        if isinstance(index, Node) and tensor_of(index).dtype in (torch.bool, torch.uint8):
            axis += tensor_of(index).dim()
            continue
        if isinstance(index, Node):
            yield Use(index, *_along(source, axis, lowering, negative=True))
        axis += 1


def _part(node: Node, lowering: Lowering) -> Iterator[Use]:
    """slice, narrow, select and their scatters, from a place that only a run tells."""
    values = arguments(node)
    source, start = node_argument(values, "self"), values.get("index", values.get("start"))
    if not isinstance(start, Node):
        return
    axis = axis_of(values["dim"], tensor_of(source).dim())
    low, high, what = _along(source, axis, lowering)
    if "index" not in values:
        part = node_argument(values, "src") if "src" in values else node
        step, length = values.get("step", 1), tensor_of(part).shape[axis]
        if not isinstance(step, int) or not lowering.knows(length):
            return
        high = add(high, scale(add(lowering.dims((length,))[0], -1), -step))
    yield Use(start, low, high, what)


def _caches(node: Node, lowering: Lowering) -> Iterator[Use]:
    """ExecuTorch's operators that write caches [B, T, H, D]."""
    bases = node.kwargs.get("_all_bases")
    for new, cache in (("value", "cache"), ("key", "key_cache"), ("value", "value_cache")):
        index, written = node.kwargs.get(f"_{cache}_base_index"), node.kwargs.get(new)
        if not isinstance(bases, (list, tuple)) or not isinstance(index, int) or not isinstance(written, Node):
            continue
        source, places = bases[index], node.kwargs.get("indices")
        assert isinstance(source, Node)
        low, high, what = _along(source, 1, lowering)
        if isinstance(places, Node):
            yield Use(places, low, high, what)
        else:
            yield from _tokens(node.kwargs.get("start_pos"), written, (low, high, what), lowering)


def _attended(node: Node, lowering: Lowering) -> Iterator[Use]:
    """llama.custom_sdpa."""
    values = arguments(node)
    places = _along(node_argument(values, "key"), 1, lowering)
    yield from _tokens(values["start_pos"], node_argument(values, "query"), places, lowering)


def _tokens(start: object, new: Node, places: tuple[Dim, Dim, str], lowering: Lowering) -> Iterator[Use]:
    low, high, what = places
    if isinstance(start, (Node, int)):
        tokens = lowering.dims(tensor_of(new).shape)[1]
        yield Use(start, low, add(high, add(ONE, scale(tokens, -1))), what)


_USES: dict[str, Callable[[Node, Lowering], Iterator[Use]]] = {
    **dict.fromkeys(("aten.embedding.default", "quantized_decomposed.embedding_byte.default",
                     "quantized_decomposed.embedding_byte.dtype", "quantized_decomposed.embedding_4bit.default",
                     "quantized_decomposed.embedding_4bit.dtype"), _rows),
    **dict.fromkeys(("aten.index_select.default", "aten.gather.default", "aten.index_copy.default", "aten.scatter.src",
                     "aten.scatter.value"), _one_axis),
    **dict.fromkeys(("aten.index.Tensor", "aten.index_put.default", "aten.index_put_.default"), _each_axis),
    **dict.fromkeys(("aten.slice.Tensor", "aten.narrow.default", "aten.select.int", "aten.slice_scatter.default",
                     "aten.select_scatter.default"), _part),
    FUNCTIONALIZED: _caches,
    "llama.custom_sdpa.default": _attended,
}  # fmt: skip

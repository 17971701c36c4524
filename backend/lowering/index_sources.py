"""Where the integers of an index come from: elements of a tensor, plus or minus what counts on from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..program import Dim
from .aten import ARANGES, CASTS
from .graph import arguments, op_name, tensor_of
from .lowering import Lowering
from .patterns import is_known, is_tensor, operands, scalar
from .positions import ITEMS
from .values import broadcast
from .view import ONE, ZERO, View, add, scale
from .view_changes import change_view

_SUMS = {"aten.add.Tensor": (1, 1), "aten.add.Scalar": (1, 1), "aten.sub.Tensor": (1, -1), "aten.sub.Scalar": (1, -1),
         "aten.rsub.Scalar": (-1, 1), "add": (1, 1), "sub": (1, -1)}  # fmt: skip
_NOTHING = -1  # the tensor of a view that only counts


@dataclass(frozen=True, slots=True)
class Source:
    """Integers: at place p sign * (element p of `view`, if there is one) + shift.offset + p . shift.strides."""

    view: View | None
    shift: View
    sign: int = 1

    def spread(self) -> tuple[Dim, Dim] | None:
        """The least and the largest that is added to any element; None when that is no sum of sizes."""
        low = high = self.shift.offset
        for size, stride in zip(self.shift.sizes, self.shift.strides, strict=True):
            if stride.terms:
                return None
            step = ZERO if size == ONE else scale(add(size, -1), stride.base)
            low, high = (low, add(high, step)) if stride.base >= 0 else (add(low, step), high)
        return low, high

    def is_exact(self) -> bool:
        """Whether each element meets everything that is added: the spread then bounds it exactly."""
        if self.view is None:
            return True
        places = zip(self.shift.sizes, self.shift.strides, self.view.strides, strict=True)
        return all(ZERO in (counted, stride) or size == ONE for size, counted, stride in places)


def read_source(value: object, lowering: Lowering) -> Source | None:
    """The source of a tensor's integers or of a size; None when it has no value of this kind."""
    if isinstance(value, int):
        return _counted(Dim(value))
    if not isinstance(value, Node):
        return None
    found = _read(value, lowering)
    if found is None and is_tensor(value) and lowering.has_value(value):
        view = lowering.view(value)
        found = Source(view, View(_NOTHING, ZERO, view.sizes, (ZERO,) * len(view.sizes)))
    return found


def _read(node: Node, lowering: Lowering) -> Source | None:
    """What lies upstream of a node that only moves, counts on or casts."""
    name = op_name(node)
    if name in _SUMS:
        return _sum(node, lowering)
    if not is_tensor(node):
        return _size(node, lowering)
    if tensor_of(node).is_floating_point():
        return None
    number = scalar(node, lowering)
    if number is not None:
        return _broadcast(_counted(Dim(int(number))), node, lowering) if is_known(node, lowering) else None
    if name in ARANGES:
        return _arange(node, lowering)
    source = node.args[0] if node.args else None
    if name == "aten.scalar_tensor.default":
        return read_source(source, lowering)
    if name in CASTS and isinstance(source, Node) and _is_held(source, node):
        return read_source(source, lowering)
    inner = read_source(source, lowering) if isinstance(source, Node) and is_tensor(source) else None
    return None if inner is None else _moved(inner, node, lowering)


def _is_held(source: Node, node: Node) -> bool:
    """Whether a cast keeps every integer: to a wider one, or from 64 to 32 bits, which the device has of all."""
    before, after = tensor_of(source).dtype, tensor_of(node).dtype
    return not before.is_floating_point and (after in (torch.int32, torch.int64) or before is after)


def _counted(number: Dim) -> Source:
    return Source(None, View(_NOTHING, number, (), ()))


def _size(node: Node, lowering: Lowering) -> Source | None:
    """A number: an element that the graph reads, or a size that the Program knows."""
    if op_name(node) in ITEMS:
        inner = read_source(node.args[0], lowering)
        if inner is None or any(size != ONE for size in inner.shift.sizes):
            return None
        parts = [None if part is None else replace(part, sizes=(), strides=()) for part in (inner.view, inner.shift)]
        return Source(parts[0], parts[1] or inner.shift, inner.sign)
    value = node.meta.get("val")
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        return None
    if _reads_item(node) or not lowering.knows(value):
        return None
    return _counted(lowering.size(node))


def _reads_item(node: Node) -> bool:
    return any(not is_tensor(item) and (op_name(item) in ITEMS or _reads_item(item)) for item in node.all_input_nodes)


def _arange(node: Node, lowering: Lowering) -> Source | None:
    values = arguments(node)
    first, step = read_source(values.get("start", 0), lowering), values.get("step", 1)
    if first is None or not isinstance(step, int):
        return None
    found = _broadcast(first, node, lowering)
    return replace(found, shift=replace(found.shift, strides=(Dim(step),)))


def _sum(node: Node, lowering: Lowering) -> Source | None:
    try:
        given = operands(node) if is_tensor(node) else (node.args[0], node.args[1])
    except Unsupported:
        return None
    a, b = (read_source(item, lowering) for item in given)
    if a is None or b is None or (a.view is not None and b.view is not None):
        return None
    if is_tensor(node):
        a, b = (_broadcast(item, node, lowering) for item in (a, b))
    signs = _SUMS[op_name(node)]
    shifts = [_scaled(item.shift, sign) for item, sign in zip((a, b), signs, strict=True)]
    strides = tuple(add(x, y) for x, y in zip(shifts[0].strides, shifts[1].strides, strict=True))
    shift = View(_NOTHING, add(shifts[0].offset, shifts[1].offset), shifts[0].sizes, strides)
    taken, sign = (a, signs[0]) if a.view is not None else (b, signs[1])
    return Source(taken.view, shift, taken.sign * sign)


def _scaled(view: View, factor: int) -> View:
    return View(
        _NOTHING, scale(view.offset, factor), view.sizes, tuple(scale(stride, factor) for stride in view.strides)
    )


def _broadcast(source: Source, node: Node, lowering: Lowering) -> Source:
    sizes = lowering.dims(tensor_of(node).shape)
    view = None if source.view is None else broadcast(source.view, sizes)
    return replace(source, view=view, shift=broadcast(source.shift, sizes))


def _moved(source: Source, node: Node, lowering: Lowering) -> Source | None:
    """The same integers where an operator that moves no element puts them."""
    shift = change_view(source.shift, node, lowering)
    view = None if source.view is None else change_view(source.view, node, lowering)
    if shift is None or (view is None) != (source.view is None):
        return None
    return replace(source, view=view, shift=shift)

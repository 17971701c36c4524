"""What each operator that moves no element makes of a view of its operand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..program import Dim
from .graph import arguments, op_name, tensor_of
from .lowering import Lowering
from .shapes import insert, narrow, permute, remove, reshape
from .view import ZERO, View, add

Change = Callable[[View, Node, Lowering], View]


def axis_of(value: object, rank: int) -> int:
    """A dimension counted from either end."""
    assert isinstance(value, int), value
    axis = value + max(rank, 1) if value < 0 else value
    assert 0 <= axis < max(rank, 1), f"dimension {value} of {rank}"
    return axis


def axes_of(value: object, rank: int) -> list[int]:
    """One or several dimensions."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [axis_of(item, rank) for item in values]


def first_index(value: object, size: Dim, lowering: Lowering) -> Dim:
    """The start of a slice or the index of a select: a number counted from either end, or a traced size from 0 on."""
    if value is None:
        return ZERO
    index = lowering.size(value)
    if not index.terms:
        if index.base < 0:
            index = add(size, index.base)
        if not size.terms:
            index = Dim(max(0, min(index.base, size.base)))
        return index
    traced = value.meta["val"] if isinstance(value, Node) else value
    if not _is_natural(traced):
        raise Unsupported(f"index {traced} may be negative; need torch._check(index >= 0), or a number")
    return index


def _is_natural(size: object) -> bool:
    assert isinstance(size, torch.SymInt), size
    bounds = size.node.shape_env.bound_sympy(size.node.expr)
    return bool(bounds.lower >= 0)


def unchanged(view: View, node: Node, lowering: Lowering) -> View:
    return view


def _reshaped(view: View, node: Node, lowering: Lowering) -> View:
    sizes = lowering.dims(tensor_of(node).shape)
    found = reshape(view, sizes, lowering.multiply)
    if found is not None:
        return found
    source = node.args[0]
    assert isinstance(source, Node)
    return lowering.dense_view(lowering.operand(source, sizes))


def _permuted(view: View, node: Node, lowering: Lowering) -> View:
    return permute(view, axes_of(arguments(node)["dims"], len(view.sizes)))


def _transposed(view: View, node: Node, lowering: Lowering) -> View:
    values, order = arguments(node), list(range(len(view.sizes)))
    if not order:
        return view
    a, b = (axis_of(values[name], len(order)) for name in ("dim0", "dim1"))
    order[a], order[b] = b, a
    return permute(view, order)


def _turned(view: View, node: Node, lowering: Lowering) -> View:
    return permute(view, list(reversed(range(len(view.sizes)))))


def _unsqueezed(view: View, node: Node, lowering: Lowering) -> View:
    return insert(view, axis_of(arguments(node)["dim"], len(view.sizes) + 1))


def _squeezed(view: View, node: Node, lowering: Lowering) -> View:
    """Without the dimensions that the traced shape lost."""
    values, source = arguments(node), node.args[0]
    assert isinstance(source, Node)
    shape = tensor_of(source).shape
    axes: Sequence[int] = range(len(shape))
    if "dim" in values and shape:
        axes = axes_of(values["dim"], len(shape))
    return remove(view, [axis for axis in axes if isinstance(shape[axis], int) and shape[axis] == 1])


def _expanded(view: View, node: Node, lowering: Lowering) -> View:
    sizes = lowering.dims(tensor_of(node).shape)
    lead = len(sizes) - len(view.sizes)
    strides = [ZERO] * lead
    for size, stride, wanted in zip(view.sizes, view.strides, sizes[lead:], strict=True):
        strides.append(stride if size == wanted else ZERO)
    return View(view.tensor, view.offset, sizes, tuple(strides))


def _sliced(view: View, node: Node, lowering: Lowering) -> View:
    values = arguments(node)
    axis, step = axis_of(values["dim"], len(view.sizes)), values["step"]
    assert isinstance(step, int), step  # export makes it a number
    size = lowering.dims(tensor_of(node).shape)[axis]
    start = first_index(values["start"], view.sizes[axis], lowering)
    return narrow(view, axis, start, size, step, multiply=lowering.multiply)


def _selected(view: View, node: Node, lowering: Lowering) -> View:
    values = arguments(node)
    axis = axis_of(values["dim"], len(view.sizes))
    start = first_index(values["index"], view.sizes[axis], lowering)
    return remove(narrow(view, axis, start, Dim(1), multiply=lowering.multiply), [axis])


def _narrowed(view: View, node: Node, lowering: Lowering) -> View:
    values = arguments(node)
    axis = axis_of(values["dim"], len(view.sizes))
    start = first_index(values["start"], view.sizes[axis], lowering)
    return narrow(view, axis, start, lowering.dims(tensor_of(node).shape)[axis], multiply=lowering.multiply)


def change_view(view: View, node: Node, lowering: Lowering) -> View | None:
    """What one of these operators makes of a view of its operand; None when it is none, or would have to copy."""
    change = CHANGES.get(op_name(node))
    if change is _reshaped:
        return reshape(view, lowering.dims(tensor_of(node).shape), lowering.multiply)
    try:
        return None if change is None else change(view, node, lowering)
    except Unsupported:
        return None


CHANGES: dict[str, Change] = {
    "aten.alias.default": unchanged,
    "aten.clone.default": unchanged,
    "aten.contiguous.default": unchanged,
    "aten.detach.default": unchanged,
    "aten.lift_fresh.default": unchanged,
    "dim_order_ops._clone_dim_order.default": unchanged,
    "aten._unsafe_view.default": _reshaped,
    "aten.flatten.using_ints": _reshaped,
    "aten.reshape.default": _reshaped,
    "aten.unflatten.int": _reshaped,
    "aten.view.default": _reshaped,
    "aten.view_as.default": _reshaped,
    "aten.numpy_T.default": _turned,
    "aten.permute.default": _permuted,
    "aten.t.default": _turned,
    "aten.transpose.int": _transposed,
    "aten.squeeze.default": _squeezed,
    "aten.squeeze.dim": _squeezed,
    "aten.squeeze.dims": _squeezed,
    "aten.unsqueeze.default": _unsqueezed,
    "aten.expand.default": _expanded,
    "aten.expand_as.default": _expanded,
    "aten.narrow.default": _narrowed,
    "aten.select.int": _selected,
    "aten.slice.Tensor": _sliced,
}

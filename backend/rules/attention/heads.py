"""Values of attention as its kernels take them: heads of a token side by side, or token by token for each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from ...kernels.dtypes import DType
from ...lowering.lowering import Lowering, NotApplicable
from ...lowering.patterns import is_tensor
from ...lowering.view import ONE, QUAD, ZERO, View, add, dense_strides, is_dense, scale
from ...program import SIZE_ALIGN, Dim, Memory


@dataclass(frozen=True, slots=True)
class Heads:
    """A tensor in layout 0, [B, H, S, D], or 1, [B, S, row] with a token's heads from element `first` of its row on."""

    tensor: int
    layout: int
    first: int
    row: int


def order(view: View, axes: Sequence[int]) -> View:
    """The view with its dimensions in this order."""
    return View(view.tensor, view.offset, tuple(view.sizes[a] for a in axes), tuple(view.strides[a] for a in axes))


def heads_of(view: View, lowering: Lowering, *, name: str, multiple: int = QUAD) -> Heads:
    """A view [B, H, S, D] as the kernels take it; a dense copy when its strides fit neither layout.

    multiple: of which `first` and the rows must be.
    """
    found = fit(view, 0, lowering, multiple=multiple) or fit(view, 1, lowering, multiple=multiple)
    return found or _copied(view, lowering, name=name)


def pair_of(
    a: View, b: View, lowering: Lowering, *, names: tuple[str, str], multiple: int = QUAD
) -> tuple[Heads, Heads]:
    """Two views [B, H, S, D], keys and values, in one layout and with rows of one length; or copies."""
    for layout in (0, 1):
        first, second = (fit(view, layout, lowering, multiple=multiple) for view in (a, b))
        if first is not None and second is not None and first.row == second.row:
            return first, second
    dense = [
        fit(view, 0, lowering) or _copied(view, lowering, name=name) for view, name in zip((a, b), names, strict=True)
    ]
    return dense[0], dense[1]


def fit(view: View, layout: int, lowering: Lowering, *, multiple: int = QUAD) -> Heads | None:
    """A view [B, H, S, D] in this layout, without a copy; None when its strides do not fit."""
    batch, heads, tokens, width = view.sizes
    if layout == 0:
        if view.offset != ZERO or not is_dense(view, lowering.multiply):
            return None
        return Heads(alias(view.tensor, view.sizes, lowering), 0, 0, width.base)
    row = _row(view)
    if row is None or view.strides[3] != ONE or view.offset.terms or view.offset.base % multiple or row % multiple:
        return None
    if heads != ONE and view.strides[1] != width:
        return None
    if batch != ONE and view.strides[0] != scale(tokens, row):
        return None
    if view.offset.base + heads.base * width.base > row:
        return None
    return Heads(alias(view.tensor, (batch, tokens, Dim(row)), lowering), 1, view.offset.base, row)


def _row(view: View) -> int | None:
    """Elements from one token to the next, which mean nothing where there is one token."""
    batch, heads, tokens, width = view.sizes
    if view.offset.terms or heads.terms or width.terms:
        return None
    if tokens != ONE:
        step = view.strides[2]
    elif batch != ONE:
        step = view.strides[0]
    else:
        step = add(view.offset, heads.base * width.base)
    return None if step.terms else step.base


def _copied(view: View, lowering: Lowering, *, name: str) -> Heads:
    return Heads(dense_tensor(view, lowering, name=name), 0, 0, view.sizes[3].base)


def dense_tensor(view: View, lowering: Lowering, *, name: str) -> int:
    """A tensor with the view's elements in row-major order and its dimensions; a copy where it must be."""
    if view.offset == ZERO and is_dense(view, lowering.multiply):
        return alias(view.tensor, view.sizes, lowering)

    def make() -> tuple[int, ...]:
        dtype = lowering.builder.tensor_info(view.tensor).dtype
        tensor = lowering.builder.tensor(f"{name}.dense", dtype, view.sizes)
        lowering.copy(view, lowering.dense_view(tensor), name=f"{name}.dense")
        return (tensor,)

    return lowering.once(("dense", name, view), make)[0]


def alias(tensor: int, dims: Sequence[Dim], lowering: Lowering) -> int:
    """The tensor with these dimensions."""
    wanted = tuple(dims)
    info = lowering.builder.tensor_info(tensor)
    if info.dims == wanted:
        return tensor

    def make() -> tuple[int, ...]:
        if info.memory is not Memory.CONSTANT:
            return (lowering.builder.alias(tensor, wanted),)
        if not any(dim.terms for dim in wanted):
            return (lowering.builder.constant_alias(tensor, [dim.base for dim in wanted]),)
        copied = lowering.builder.tensor(f"{info.name}.part", info.dtype, wanted)  # the first elements of a constant
        whole = View(tensor, ZERO, wanted, dense_strides(wanted, lowering.multiply))
        lowering.copy(whole, lowering.dense_view(copied), name=f"{info.name}.part")
        return (copied,)

    return lowering.once(("alias", tensor, wanted), make)[0]


def position_tensor(position: Node | int, lowering: Lowering) -> int:
    """An i32 tensor [1] with a token's position: a constant, the one element of a node's value, or a traced size."""
    if isinstance(position, Node) and is_tensor(position):
        return index_operand(position, lowering, (ONE,))
    if isinstance(position, Node):
        start = lowering.size(position)

        def make() -> tuple[int, ...]:
            tensor = lowering.builder.tensor(f"{position.name}.position", DType.I32, (1,))
            lowering.call("arange", {"y": tensor}, {"start": start, "step": 1}, node=position)
            return (tensor,)

        return lowering.once(("position", start), make)[0]
    return _constant("position", DType.I32, (1,), np.array([position], np.int32), lowering)


def index_operand(node: Node, lowering: Lowering, dims: Sequence[Dim] | None = None) -> int:
    """The tensor of a node's integers, which are indices: once a call has looked at them, what it left of them."""
    view = lowering.view(node)
    found = lowering.guarded(view)
    if found == view:
        return lowering.operand(node, dims)
    return alias(found.tensor, view.sizes if dims is None else dims, lowering)


def no_mask(lowering: Lowering) -> int:
    """What the mask slot is bound to where there is none."""
    return _constant("no_mask", DType.U8, (1, 1, 1, 1), np.ones((1, 1, 1, 1), np.uint8), lowering)


def _constant(name: str, dtype: DType, dims: tuple[int, ...], data: np.ndarray, lowering: Lowering) -> int:
    key = ("small constant", name, data.tobytes())
    return lowering.once(key, lambda: (lowering.builder.constant(name, dtype, dims, data=data),))[0]


def largest(dim: Dim, lowering: Lowering) -> int:
    """The largest value of a dimension over the symbols' ranges."""
    return lowering.builder.size_bytes(DType.I8, (dim, SIZE_ALIGN)) // SIZE_ALIGN


def check_head_dim(width: Dim, *, multiple: int, where: str, largest: int = 0) -> int:
    """The size of a head. Raises NotApplicable where the kernel does not take it. largest: 0 for any."""
    if width.terms or width.base % multiple or (largest and width.base > largest):
        offered = f"multiples of {multiple}" + (f" up to {largest}" if largest else "")
        raise NotApplicable(f"{where}: head size {'dynamic' if width.terms else width.base}; offered {offered}")
    return width.base

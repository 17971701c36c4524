"""Strided copies: the one way in which elements move without a computation."""

from __future__ import annotations

from itertools import product

from ..errors import Unsupported
from ..program import Dim
from ..program.builder import ProgramBuilder
from ..references.strides import RANK
from .view import ONE, ZERO, Multiply, View, add, collapse, scale

KERNEL_RANK = RANK


def emit_copy(builder: ProgramBuilder, source: View, target: View, *, multiply: Multiply, name: str) -> None:
    """Appends the calls that put every element of source into target, whose sizes are the same."""
    space = collapse(source.sizes, source.strides, target.strides, multiply=multiply)
    extra = max(len(space) - KERNEL_RANK, 0)  # a call each for the smallest dimensions beyond the kernel's
    static = sorted((size.base, axis) for axis, (size, _, _) in enumerate(space) if not size.terms)
    if len(static) < extra:
        raise Unsupported(
            f"{name}: a copy of {len(space) - len(static)} dynamic dimensions that do not merge; offered {KERNEL_RANK}"
        )
    looped = {axis for _, axis in static[:extra]}
    outer = [part for axis, part in enumerate(space) if axis in looped]
    inner = [part for axis, part in enumerate(space) if axis not in looped]
    for index in product(*(range(size.base) for size, _, _ in outer)):
        x_offset, y_offset = source.offset, target.offset
        for step, (_, x_stride, y_stride) in zip(index, outer, strict=True):
            x_offset, y_offset = add(x_offset, scale(x_stride, step)), add(y_offset, scale(y_stride, step))
        attrs: dict[str, int | float | Dim] = {}
        attrs |= sizes_attrs([size for size, _, _ in inner])
        attrs |= strides_attrs("x", x_offset, [x_stride for _, x_stride, _ in inner])
        attrs |= strides_attrs("y", y_offset, [y_stride for _, _, y_stride in inner])
        builder.call("strided_copy", {"x": source.tensor, "y": target.tensor}, attrs, name=name)


def sizes_attrs(sizes: list[Dim]) -> dict[str, Dim]:
    """size0..size3, leading ones added."""
    full = [ONE] * (KERNEL_RANK - len(sizes)) + sizes
    return {f"size{axis}": size for axis, size in enumerate(full)}


def strides_attrs(slot: str, offset: Dim, strides: list[Dim]) -> dict[str, Dim]:
    """<slot>_offset and <slot>_stride0..3, leading zeros added."""
    full = [ZERO] * (KERNEL_RANK - len(strides)) + strides
    return {f"{slot}_offset": offset, **{f"{slot}_stride{axis}": stride for axis, stride in enumerate(full)}}

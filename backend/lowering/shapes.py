"""Views of views: what permute, expand, slice and reshape do to sizes, strides and the offset."""

from __future__ import annotations

from collections.abc import Sequence

from ..program import Dim
from .view import ONE, ZERO, Multiply, View, add, collapse, dense_strides, is_dense, scale


def permute(view: View, order: Sequence[int]) -> View:
    """The dimensions in another order."""
    sizes, strides = (tuple(values[axis] for axis in order) for values in (view.sizes, view.strides))
    return View(view.tensor, view.offset, sizes, strides)


def insert(view: View, axis: int) -> View:
    """A dimension of size 1 before `axis`."""
    sizes = (*view.sizes[:axis], ONE, *view.sizes[axis:])
    return View(view.tensor, view.offset, sizes, (*view.strides[:axis], ZERO, *view.strides[axis:]))


def remove(view: View, axes: Sequence[int]) -> View:
    """Without these dimensions."""
    return permute(view, [axis for axis in range(len(view.sizes)) if axis not in axes])


def narrow(view: View, axis: int, start: Dim, size: Dim, step: int = 1, *, multiply: Multiply) -> View:
    """`size` elements of one dimension from `start` on."""
    offset = add(view.offset, multiply(start, view.strides[axis]))
    sizes, strides = list(view.sizes), list(view.strides)
    sizes[axis], strides[axis] = size, scale(strides[axis], step)
    return View(view.tensor, offset, tuple(sizes), tuple(strides))


def reverse(view: View, axis: int, *, multiply: Multiply) -> View:
    """One dimension from its end to its beginning."""
    last = multiply(add(view.sizes[axis], -1), view.strides[axis])
    strides = list(view.strides)
    strides[axis] = scale(strides[axis], -1)
    return View(view.tensor, add(view.offset, last), view.sizes, tuple(strides))


def reshape(view: View, sizes: Sequence[Dim], multiply: Multiply) -> View | None:
    """The same elements in the same order with other sizes, as many in all. None when strides cannot express that."""
    if is_dense(view, multiply):
        return View(view.tensor, view.offset, tuple(sizes), dense_strides(sizes, multiply))
    strides: list[Dim] = []  # from the last dimension to the first
    runs = list(reversed(collapse(view.sizes, view.strides, multiply=multiply)))
    count, stride = runs.pop(0) if runs else (ONE, ONE)
    taken = ONE
    for size in reversed(sizes):
        if size == ONE:
            strides.append(ZERO)
            continue
        if taken == count:
            if not runs:
                return None
            (count, stride), taken = runs.pop(0), ONE
        strides.append(multiply(taken, stride))
        taken = multiply(taken, size)
        if not taken.terms and not count.terms and taken.base > count.base:
            return None
    if runs or taken != count:
        return None
    return View(view.tensor, view.offset, tuple(sizes), tuple(reversed(strides)))

"""A graph value as elements of a device tensor: views, slices and broadcasts cost nothing until a kernel needs rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..program import Dim

ZERO, ONE = Dim(0), Dim(1)
QUAD = 4  # elements that the kernels of attention and caches load at once
Multiply = Callable[[Dim, Dim], Dim]


@dataclass(frozen=True, slots=True)
class View:
    """Element i of the value is element offset + sum(i[d] * strides[d]) of the tensor."""

    tensor: int
    offset: Dim
    sizes: tuple[Dim, ...]
    strides: tuple[Dim, ...]


def add(a: Dim, b: Dim | int) -> Dim:
    """a + b."""
    other = Dim(b) if isinstance(b, int) else b
    terms = {index: coefficient for coefficient, index in a.terms}
    for coefficient, index in other.terms:
        terms[index] = terms.get(index, 0) + coefficient
    kept = tuple((coefficient, index) for index, coefficient in sorted(terms.items()) if coefficient)
    return Dim(a.base + other.base, kept)


def scale(a: Dim, factor: int) -> Dim:
    """a * factor."""
    if factor == 0:
        return ZERO
    return Dim(a.base * factor, tuple((coefficient * factor, index) for coefficient, index in a.terms))


def dense_strides(sizes: Sequence[Dim], multiply: Multiply) -> tuple[Dim, ...]:
    """Strides of a dense tensor in row-major order."""
    strides = [ONE] * len(sizes)
    for axis in reversed(range(len(sizes) - 1)):
        strides[axis] = multiply(strides[axis + 1], sizes[axis + 1])
    return tuple(strides)


def is_dense(view: View, multiply: Multiply) -> bool:
    """Whether the elements follow each other in row-major order. Strides of dimensions of size 1 do not matter."""
    wanted = dense_strides(view.sizes, multiply)
    return all(
        size == ONE or stride == want for size, stride, want in zip(view.sizes, view.strides, wanted, strict=True)
    )


def collapse(sizes: Sequence[Dim], *strides: Sequence[Dim], multiply: Multiply) -> list[tuple[Dim, ...]]:
    """The same space with as few dimensions as possible: [(size, stride of the first operand, ...), ...].

    Dimensions of size 1 go; neighbours merge where every operand steps evenly through both.
    """
    merged: list[tuple[Dim, ...]] = []
    for axis, size in enumerate(sizes):
        steps = tuple(operand[axis] for operand in strides)
        if size == ONE:
            continue
        if merged and all(outer == multiply(inner, size) for outer, inner in zip(merged[-1][1:], steps, strict=True)):
            merged[-1] = (multiply(merged[-1][0], size), *steps)
        else:
            merged.append((size, *steps))
    return merged

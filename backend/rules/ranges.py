"""Indexing by places that count up: a view, as in masks that models vectorize."""

from __future__ import annotations

from torch.fx import Node

from ..lowering.graph import arguments, node_argument, tensor_of
from ..lowering.lowering import Lowered, Lowering, NotApplicable
from ..lowering.patterns import is_tensor
from ..lowering.positions import Affine, read_affine
from ..lowering.view import ZERO, View, add, scale


def lower_index(node: Node, lowering: Lowering) -> Lowered:
    """aten.index(x, [places of its first dimensions]) where all places are known to be affine in the result's axes."""
    values = arguments(node)
    indices = values["indices"]
    if not isinstance(indices, (list, tuple)) or not all(is_tensor(index) for index in indices):
        raise NotApplicable(f"{node.name} leaves out dimensions")
    places = [read_affine(index, lowering) for index in indices]
    x = lowering.view(node_argument(values, "self"))
    sizes = lowering.dims(tensor_of(node).shape)
    rest = len(x.sizes) - len(places)
    indexed = len(sizes) - rest
    strides, offset = [ZERO] * indexed, x.offset
    for place, stride in zip(places, x.strides, strict=False):
        first = _known(node, place)
        offset = add(offset, scale(stride, first.constant))
        for axis in first.axes():
            if first.step(axis) < 0 or first.constant < 0:
                raise NotApplicable(f"{node.name} counts down")
            strides[axis + indexed] = add(strides[axis + indexed], scale(stride, first.step(axis)))
    lowering.bind_view(node, View(x.tensor, offset, sizes, (*strides, *x.strides[len(places) :])))
    return Lowered((node,), ())


WHOLE = ()
RULES = {"aten.index.Tensor": lower_index}


def _known(node: Node, place: Affine | None) -> Affine:
    if place is None or place.factor:
        raise NotApplicable(f"{node.name} has places that are computed")
    return place

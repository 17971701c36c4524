"""Operators that move no element: their results are views of their operands."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..lowering.graph import arguments, node_argument, op_name, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.shapes import narrow, remove
from ..lowering.view import ZERO, View, add
from ..lowering.view_changes import CHANGES, Change, axis_of, unchanged
from ..program import Dim

SPLITS = ("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.unbind.int")


def split_piece(node: Node, index: int, lowering: Lowering) -> View:
    """The part of a tensor that one result of a split is. node: the split."""
    values = arguments(node)
    source = lowering.view(node_argument(values, "self"))
    axis = axis_of(values["dim"], len(source.sizes))
    parts = node.meta["val"]
    if op_name(node) == "aten.unbind.int":
        return remove(narrow(source, axis, Dim(index), Dim(1), multiply=lowering.multiply), [axis])
    lengths = [lowering.dims(part.shape)[axis] for part in parts]
    start = ZERO
    for length in lengths[:index]:
        start = add(start, length)
    return narrow(source, axis, start, lengths[index], multiply=lowering.multiply)


def _lower_view(change: Change) -> Callable[[Node, Lowering], Lowered]:
    def rule(node: Node, lowering: Lowering) -> Lowered:
        source = node.args[0]
        assert isinstance(source, Node), source
        lowering.device_dtype(tensor_of(node).dtype)
        lowering.bind_view(node, change(lowering.view(source), node, lowering))
        return Lowered((node,), ())

    return rule


def lower_split(node: Node, lowering: Lowering) -> Lowered:
    """A split has no value of its own: its parts are bound by their getitem nodes."""
    values = arguments(node)
    lowering.device_dtype(tensor_of(node_argument(values, "self")).dtype)
    return Lowered((node,), ())


def lower_getitem(node: Node, lowering: Lowering) -> Lowered:
    """One part of a split."""
    source, index = node.args
    assert isinstance(source, Node)
    assert isinstance(index, int)
    lower_split(source, lowering)
    lowering.bind_view(node, split_piece(source, index, lowering))
    return Lowered((node,), ())


def lower_dropout(node: Node, lowering: Lowering) -> Lowered:
    """Nothing at inference."""
    values = arguments(node)
    if values["train"] and values["p"] != 0:
        raise Unsupported(f"dropout in training, p {values['p']}; export the model after .eval()")
    return _lower_view(unchanged)(node, lowering)


def lower_assertion(node: Node, lowering: Lowering) -> Lowered:
    """What export asserted about a tensor holds by construction."""
    return Lowered((node,), ())


RULES = {
    **{name: _lower_view(change) for name, change in CHANGES.items()},
    **{name: lower_split for name in SPLITS},
    **{f"getitem of {name}": lower_getitem for name in SPLITS},
    "aten.dropout.default": lower_dropout,
    "aten._assert_tensor_metadata.default": lower_assertion,
}
# Decomposed they are permute and view; kept, ExecuTorch mostly need not trace the graph a second time.
WHOLE = (torch.ops.aten.transpose.int, torch.ops.aten._unsafe_view.default)

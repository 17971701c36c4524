"""Tables of cosines and sines made at export, where a graph computes them for each token from its position.

    cos(cat(f, f)) * scale,  f = float(position + s) * frequencies

is row position + s of a constant, as far as positions go: to the end of the caches that the same positions index, or of
the tokens where no cache is. Saves a dozen small calls a token, and keeps angles of many turns out of float16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import Node

from ...errors import Unsupported
from ...kernels.dtypes import DType
from ...lowering.aten import CASTS, FUNCTIONALIZED
from ...lowering.graph import arguments, op_name, tensor_of
from ...lowering.lowering import Lowering
from ...lowering.patterns import is_known, is_op, is_tensor, operands, scalar, shape_of, skip
from ...lowering.positions import Affine, read_affine, renamed_axes, same_position, starts_at
from ..attention.caches import RULES as CACHE_RULES
from ..attention.caches import read_update
from ..attention.llama_ops import read_custom_update

_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "aten.cos.default": torch.cos,
    "aten.sin.default": torch.sin,
}
_DEPTH = 8  # nodes from a position to a cache that is written there, at most
_LARGEST = 32 * 1024 * 1024  # bytes of a table, above which computing its rows is cheaper than storing them


@dataclass(frozen=True, slots=True)
class MadeTable:
    """function(row * frequencies) * scale, rows counted from `first` on for the tokens of a call."""

    function: str
    frequencies: Node
    scale: float
    first: Node | int

    def tensor(self, rows: int, lowering: Lowering) -> int:
        """The constant [rows, len(frequencies)], made once."""
        constant = lowering.constant(skip(self.frequencies))
        assert constant is not None
        width = constant.shape[-1]

        def data() -> npt.NDArray[np.generic]:
            angles = torch.arange(rows).float().unsqueeze(1) * constant.array().float().reshape(1, width)
            values: npt.NDArray[np.float32] = (_FUNCTIONS[self.function](angles) * self.scale).numpy()
            return values

        name = f"{constant.name}.{self.function.split('.')[1]}"
        key = ("rotary table", self.function, constant.name, self.scale, rows)
        return lowering.once(key, lambda: (lowering.builder.constant(name, DType.F32, (rows, width), data=data),))[0]


def read_made(table: Node, lowering: Lowering) -> MadeTable | None:
    """A table that a graph computes for each token; None when it is anything else."""
    node, scale = _unscaled(_unwrapped(table), lowering)
    name = op_name(node)
    if name not in _FUNCTIONS or not isinstance(node.args[0], Node):
        return None
    angles = skip(node.args[0])
    if is_op(angles, "aten.cat.default"):
        pieces = arguments(angles)["tensors"]
        last = arguments(angles)["dim"] in (-1, tensor_of(angles).dim() - 1)
        if not isinstance(pieces, (list, tuple)) or len(pieces) != 2 or pieces[0] is not pieces[1] or not last:
            return None
        angles = skip(pieces[0])
    if not is_op(angles, "aten.mul.Tensor"):
        return None
    for places, frequencies in (operands(angles), operands(angles)[::-1]):
        first = _first(places, lowering)
        if first is not None and isinstance(frequencies, Node) and _is_row(frequencies, lowering):
            return MadeTable(name, frequencies, scale, first)
    return None


def count_rows(first: Node | int, tokens: int, lowering: Lowering) -> int | None:
    """How many positions there are: at most `tokens` follow a known one; a cache has places for any other.

    None where no cache is written at the same positions.
    """
    if isinstance(first, int):
        return first + tokens
    level, reached = [first], {first}
    for _ in range(_DEPTH):
        users = [user for node in level for user in node.users if user not in reached]
        for user in users:
            rows = _cache_size(user, first, lowering)
            if rows is not None:
                return rows
        level = [user for user in users if _is_integer(user)]
        reached.update(level)
    return None


def fits(rows: int, width: int, lowering: Lowering) -> bool:
    """Whether a table is worth its memory."""
    return rows * width * 4 <= min(_LARGEST, lowering.options.max_binding_bytes)


def _unwrapped(node: Node) -> Node:
    """Without casts, and without dimensions of size 1 that were added."""
    node = skip(node, casts=True)
    while renamed_axes(node) is not None and isinstance(node.args[0], Node):
        if shape_of(node)[-1:] != shape_of(node.args[0])[-1:]:
            break
        node = skip(node.args[0], casts=True)
    return node


def _unscaled(node: Node, lowering: Lowering) -> tuple[Node, float]:
    factor = 1.0
    while is_op(node, "aten.mul.Tensor", "aten.mul.Scalar"):
        found = [(a, scalar(b, lowering), b) for a, b in (operands(node), operands(node)[::-1])]
        known = [(a, number) for a, number, b in found if number is not None and is_known(b, lowering)]
        if not known or not isinstance(known[0][0], Node):
            break
        factor *= known[0][1]
        node = skip(known[0][0], casts=True)
    return node, factor


def _first(places: object, lowering: Lowering) -> Node | int | None:
    """The first of positions [..., S, 1] as floats."""
    node = places if isinstance(places, Node) and is_tensor(places) else None
    while node is not None and tensor_of(node).is_floating_point():
        source = node.args[0] if op_name(node) in CASTS else None
        if not isinstance(source, Node) or shape_of(source) != shape_of(node):
            return None
        node = source
    if node is None or shape_of(node)[-1:] != (1,):
        return None
    affine = read_affine(node, lowering)
    if affine is None or any(axis != -2 for axis in affine.axes()):
        return None
    return starts_at(
        Affine(affine.constant, affine.factor, affine.base, {-1: affine.step(-2)} if affine.axes() else {})
    )


def _is_row(node: Node, lowering: Lowering) -> bool:
    constant = lowering.constant(skip(node))
    single = all(size == 1 for size in shape_of(node)[:-1])
    return single and constant is not None and constant.data is not None and constant.dtype.is_floating_point


def _is_integer(node: Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() and value.dtype is not torch.bool
    return isinstance(value, (int, torch.SymInt))


def _cache_size(node: Node, first: Node, lowering: Lowering) -> int | None:
    """Places of a cache that a node writes at the positions from `first` on."""
    try:
        if is_op(node, FUNCTIONALIZED):
            update = read_custom_update(node)
        elif is_op(node, *CACHE_RULES):
            update = read_update(node, lowering)
        else:
            return None
    except Unsupported:
        return None
    if update.first is None or not same_position(update.first, first):
        return None
    size = shape_of(update.cache)[update.axis]
    return size if isinstance(size, int) else None

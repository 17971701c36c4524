"""What can be proven about integer tensors: that they count tokens from some position on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from ..errors import Unsupported
from .aten import ARANGES, CASTS, COPIES, RESHAPES
from .graph import arguments, op_name, tensor_of
from .lowering import Lowering
from .patterns import is_known, is_op, is_single, is_tensor, operands, scalar, shape_of

ITEMS = ("aten.item.default", "aten._local_scalar_dense.default")
_ITEM_TARGETS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)
_SUMS = {"aten.add.Tensor": 1, "aten.add.Scalar": 1, "aten.sub.Tensor": -1, "aten.sub.Scalar": -1}
_SAME = CASTS | COPIES
_SINGLES = RESHAPES | {
    "aten.unsqueeze.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.select.int",
    "aten.slice.Tensor",
}


@dataclass(frozen=True, slots=True)
class Affine:
    """constant + factor * base + sum(steps[axis] * index along axis), the axes counted from the end: -1 is the last.

    base: a tensor of one integer.
    """

    constant: int = 0
    factor: int = 0
    base: Node | None = None
    steps: Mapping[int, int] | None = None

    def step(self, axis: int) -> int:
        """Change along an axis."""
        return 0 if self.steps is None else self.steps.get(axis, 0)

    def axes(self) -> list[int]:
        """The axes along which it changes."""
        return [axis for axis, step in (self.steps or {}).items() if step]

    def moved(self, places: Mapping[int, int]) -> Affine | None:
        """With axes renamed; None when it changes along one that goes."""
        if any(axis not in places for axis in self.axes()):
            return None
        return replace(self, steps={places[axis]: self.step(axis) for axis in self.axes()})


def read_position(value: object) -> Node | int | None:
    """A token's position: a number, or the tensor of one integer that it is read from; None for any other."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, Node):
        return None
    if op_name(value) in ITEMS and isinstance(value.args[0], Node):
        return _single(value.args[0])
    if is_tensor(value) and is_single(value) and not tensor_of(value).is_floating_point():
        return _single(value)
    return None


def read_start(value: object, where: str) -> Node | int:
    """The position that an operator was given: as read_position, or the node of a traced size."""
    position = read_position(value)
    if position is not None:
        return position
    if not isinstance(value, Node) or is_tensor(value):
        raise Unsupported(f"{where}: position {value}; need an integer")
    return value


def read_affine(value: object, lowering: Lowering) -> Affine | None:
    """An integer or integer tensor in affine form; None when it cannot be proven to have one."""
    number = scalar(value, lowering)
    if number is not None:
        return Affine(int(number)) if is_known(value, lowering) and number.is_integer() else None
    if not isinstance(value, Node) or (is_tensor(value) and tensor_of(value).is_floating_point()):
        return None
    name = op_name(value)
    if name in ARANGES:
        values = arguments(value)
        first, step = read_affine(values.get("start", 0), lowering), values.get("step", 1)
        if first is None or not isinstance(step, int):
            return None
        return replace(first, steps={} if is_single(value) else {-1: step})
    if name in _SUMS:
        a, b = (read_affine(item, lowering) for item in operands(value))
        if a is not None and b is not None:
            return combine(a, b, _SUMS[name])
    places = _unmoved(value) if name in _SAME else renamed_axes(value)
    inner = None if places is None else read_affine(value.args[0], lowering)
    moved = None if inner is None or places is None else inner.moved(places)
    if moved is not None:
        return moved
    position = read_position(value)
    return Affine(factor=1, base=position) if isinstance(position, Node) else None


def combine(a: Affine, b: Affine, sign: int) -> Affine | None:
    """a + sign * b; None when that has two bases."""
    if a.base is not None and b.base is not None and not _same(a.base, b.base):
        return None
    steps = {axis: a.step(axis) + sign * b.step(axis) for axis in {*a.axes(), *b.axes()}}
    factor = a.factor + sign * b.factor
    return Affine(a.constant + sign * b.constant, factor, (a.base or b.base) if factor else None, steps)


def renamed_axes(node: Node) -> dict[int, int] | None:
    """Where the axes of its input went, for a node that adds, takes or repeats dimensions of size 1 and no more."""
    if op_name(node) not in RESHAPES | {"aten.unsqueeze.default", "aten.expand.default"}:
        return None
    source = node.args[0]
    if not isinstance(source, Node):
        return None
    before, after = shape_of(source), shape_of(node)
    if op_name(node) == "aten.expand.default":
        return {axis: axis for axis in range(-len(before), 0) if before[axis] == after[axis]}
    kept = [axis - len(before) for axis, size in enumerate(before) if size != 1]
    places = [axis - len(after) for axis, size in enumerate(after) if size != 1]
    if len(kept) != len(places) or any(before[a] != after[b] for a, b in zip(kept, places, strict=True)):
        return None
    return dict(zip(kept, places, strict=True))


def item_chain(lowering: Lowering, *ends: Node | None) -> tuple[Node, ...]:
    """What lies between items and these nodes: operators that a rule replaces when it takes the items' tensors."""
    graph = lowering.program.graph
    if not any(graph.find_nodes(op="call_function", target=target) for target in _ITEM_TARGETS):
        return ()
    upstream = [end for end in ends if end is not None]
    seen = set(upstream)
    for node in upstream:
        new = [source for source in node.all_input_nodes if source not in seen]
        seen.update(new)
        upstream += new
    dependent: set[Node] = set()
    for node in sorted(upstream):
        if op_name(node) in ITEMS or any(source in dependent for source in node.all_input_nodes):
            dependent.add(node)
    return tuple(node for node in sorted(dependent) if is_tensor(node))


def _unmoved(node: Node) -> dict[int, int]:
    return {axis: axis for axis in range(-tensor_of(node).dim(), 0)}


def same_position(a: Node | int, b: Node | int) -> bool:
    """Whether two positions are the same: equal numbers, or the same operator of the same arguments."""
    if isinstance(a, Node) and isinstance(b, Node):
        return _same(a, b)
    return not isinstance(a, Node) and not isinstance(b, Node) and a == b


def _same(a: Node, b: Node) -> bool:
    return a is b or (op_name(a) == op_name(b) != "" and a.args == b.args and a.kwargs == b.kwargs)


def _single(node: Node) -> Node:
    """The same single integer as far upstream as it is one tensor of one element."""
    while node.args:
        name = op_name(node)
        source = node.args[1] if name == "aten.copy.default" else node.args[0]
        if name == "aten.scalar_tensor.default" and is_op(source, *ITEMS):
            assert isinstance(source, Node)
            source = source.args[0]
        elif name not in _SAME | _SINGLES | {"aten.copy.default"}:
            break
        if not isinstance(source, Node):
            break
        if not is_single(source) or tensor_of(source).is_floating_point():
            break
        node = source
    return node


def starts_at(value: Affine | None) -> Node | int | None:
    """The first of places that follow each other along the last axis, or the one place; None of any others."""
    if value is None or value.axes() not in ([], [-1]) or (value.axes() and value.step(-1) != 1):
        return None
    if value.factor == 0:
        return value.constant
    return value.base if value.factor == 1 and value.constant == 0 else None

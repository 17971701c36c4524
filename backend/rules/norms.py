"""RMS norm, whole or as x * rsqrt(mean(x^2) + eps) * weight, in every order and with every cast in between.

The anchor of the decomposed form is its last multiplication. A norm within a norm by a weight computes a value that
nobody reads, and falls away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from ..lowering.aten import CASTS
from ..lowering.graph import arguments, node_argument, op_name, static_dim, tensor_of
from ..lowering.lowering import Lowered, Lowering, NotApplicable
from ..lowering.patterns import both_float, either, is_number, is_op, is_tensor, operands, scalar, shape_of, skip
from ..lowering.values import bind_empty
from ..lowering.view import ONE, ZERO, View, collapse
from ..program import Dim

_MULTIPLY, _ADD, _DIVIDE = "aten.mul.Tensor", ("aten.add.Tensor", "aten.add.Scalar"), "aten.div.Tensor"
_POWERS, _WHOLE = "aten.pow.Tensor_Scalar", "aten.rms_norm.default"


@dataclass(frozen=True, slots=True)
class Norm:
    """x / rms(x) * (offset + weight) over the last dimension. nodes: those between x and the result."""

    x: Node
    eps: float
    nodes: tuple[Node, ...]
    weight: Node | None = None
    offset: float = 1.0


def lower_rms_norm(node: Node, lowering: Lowering) -> Lowered:
    """aten.rms_norm over any number of last dimensions."""
    norm = _read_whole(node)
    x, shape = norm.x, arguments(node)["normalized_shape"]
    assert isinstance(shape, (list, tuple))
    if len(shape) == 1:
        return _emit(node, norm, lowering)
    length = 1
    for axis in range(-len(shape), 0):
        length *= static_dim(x, axis)
    dims = [lowering.quotient(lowering.product(lowering.view(x).sizes), Dim(length)), Dim(length)]
    return _call(node, norm, lowering.dense_view(lowering.operand(x, dims)), length, lowering)


def lower_decomposed(node: Node, lowering: Lowering) -> Lowered:
    """The last multiplication of a norm."""
    return _emit(node, _read(node, lowering), lowering)


def lower_cast(node: Node, lowering: Lowering) -> Lowered:
    """The cast back of a norm that half models compute in f32 to its end, as Gemma's."""
    source = skip(node.args[0]) if isinstance(node.args[0], Node) else node
    if source is node or not both_float(tensor_of(source), tensor_of(node)):
        raise NotApplicable(f"{node.name} casts no norm")
    norm = _read(source, lowering)
    return _emit(node, replace(norm, nodes=(*norm.nodes, node)), lowering)


WHOLE = (torch.ops.aten.rms_norm.default,)
RULES = {
    **dict.fromkeys(sorted(CASTS), lower_cast),
    _WHOLE: lower_rms_norm,
    "aten.mul.Tensor": lower_decomposed,
    "aten.div.Tensor": lower_decomposed,
}


def _read_whole(node: Node) -> Norm:
    values = arguments(node)
    x, weight, eps = node_argument(values, "input"), values["weight"], values["eps"]
    assert isinstance(eps, (float, type(None)))
    epsilon = torch.finfo(tensor_of(x).dtype).eps if eps is None else eps
    scales = weight if isinstance(weight, Node) else None
    return Norm(x, epsilon, (node,), scales, 1.0 if scales is None else 0.0)


def _read(node: Node, lowering: Lowering) -> Norm:
    plain = _read_plain(node, lowering)
    if plain is not None:
        return plain
    if op_name(node) == _MULTIPLY:
        a, b = operands(node)
        for inner, weight in ((a, b), (b, a)):
            if not isinstance(inner, Node) or not isinstance(weight, Node) or not is_tensor(inner):
                continue
            normalized = skip(inner, casts=True)
            norm = _read_plain(normalized, lowering)
            if norm is not None and _is_weight(weight, shape_of(norm.x)[-1]):
                scales, offset = _split_offset(weight, lowering)
                return Norm(norm.x, norm.eps, (*norm.nodes, normalized, node), scales, offset)
    raise NotApplicable(f"{node.name} ends no RMS norm")


def _read_plain(node: Node, lowering: Lowering) -> Norm | None:
    """x * rsqrt(mean(x^2) + eps), or x / sqrt(...)."""
    if is_op(node, _MULTIPLY):
        found = either(node, lambda item: _is_inverse_root(skip(item)))
        x, root = (None, None) if found is None else (found[1], skip(found[0]))
    elif is_op(node, _DIVIDE):
        x, divisor = operands(node)
        root = skip(divisor) if isinstance(divisor, Node) and is_op(skip(divisor), "aten.sqrt.default") else None
    else:
        return None
    if root is None or not isinstance(x, Node) or not is_tensor(x) or not isinstance(root.args[0], Node):
        return None
    return _read_mean(x, root.args[0], (node, root), lowering)


def _is_inverse_root(node: Node) -> bool:
    return is_op(node, "aten.rsqrt.default") or (is_op(node, _POWERS) and is_number(node.args[1], -0.5))


def _read_mean(x: Node, shifted: Node, nodes: tuple[Node, ...], lowering: Lowering) -> Norm | None:
    """mean(x^2, -1, keepdim) + eps."""
    shifted = skip(shifted)
    if op_name(shifted) not in _ADD:
        return None
    found = either(shifted, lambda item: op_name(skip(item)) == "aten.mean.dim")
    if found is None:
        return None
    mean, eps = skip(found[0]), scalar(found[1], lowering)
    values = arguments(mean)
    last = tensor_of(x).dim() - 1
    if eps is None or values["dim"] not in ([-1], [last]) or not values["keepdim"]:
        return None
    square = skip(node_argument(values, "self"))
    if is_op(square, _POWERS) and is_number(square.args[1], 2):
        factors = (square.args[0], square.args[0])
    elif is_op(square, "aten.square.default"):
        factors = (square.args[0], square.args[0])
    elif is_op(square, _MULTIPLY):
        factors = (square.args[0], square.args[1])
    else:
        return None
    same = all(isinstance(item, Node) and skip(item, casts=True) is skip(x, casts=True) for item in factors)
    return Norm(x, eps, (square, mean, shifted, *nodes)) if same else None


def _is_weight(node: Node, length: object) -> bool:
    shape = shape_of(node) if is_tensor(node) else ()
    return len(shape) > 0 and shape[-1] == length and all(size == 1 for size in shape[:-1])


def _split_offset(node: Node, lowering: Lowering) -> tuple[Node, float]:
    """(weight, offset) of a factor: 1 + weight is Gemma's."""
    source = skip(node, casts=True)
    if op_name(source) in _ADD:
        found = either(source, lambda item: tensor_of(item).dim() > 0)
        offset = None if found is None else scalar(found[1], lowering)
        if found is not None and offset is not None:
            return found[0], offset
    return node, 0.0


def _emit(node: Node, norm: Norm, lowering: Lowering) -> Lowered:
    length = static_dim(node, -1)
    if length == 0:
        return Lowered(norm.nodes, bind_empty(lowering, node).kernels)
    x = lowering.view(_of_dtype(norm.x, node, lowering))
    if _rows(x, lowering) is None:
        x = lowering.dense_view(lowering.operand(_of_dtype(norm.x, node, lowering)))
    return _call(node, norm, x, length, lowering)


def _of_dtype(x: Node, node: Node, lowering: Lowering) -> Node:
    """x before or after casts: the one with the result's dtype, as the kernel wants; it computes in f32 anyway."""
    wanted = lowering.device_dtype(tensor_of(node).dtype)
    while lowering.device_dtype(tensor_of(x).dtype) is not wanted:
        source = x.args[0] if x.args else None
        if not isinstance(source, Node) or skip(x, casts=True) is x:
            raise NotApplicable(f"{node.name} is {tensor_of(node).dtype} but normalizes {tensor_of(x).dtype}")
        x = source
    return x


def _rows(x: View, lowering: Lowering) -> list[tuple[Dim, ...]] | None:
    """Sizes and strides of the rows' dimensions, at most two of them; None when the kernel cannot step through them."""
    if x.strides[-1] != ONE:
        return None
    space = collapse(x.sizes[:-1], x.strides[:-1], multiply=lowering.multiply)
    return space if len(space) <= 2 else None


def _call(node: Node, norm: Norm, x: View, length: int, lowering: Lowering) -> Lowered:
    space = _rows(x, lowering)
    assert space is not None, f"{node.name}: rows of a dense tensor"
    inner_rows, inner_stride = space[1] if len(space) == 2 else (ONE, ZERO)
    weight = None if norm.weight is None else _weight(norm.weight, x, length, lowering)
    y = lowering.new(node)
    attrs: dict[str, int | float | Dim] = {
        "eps": norm.eps,
        "weight_offset": norm.offset,
        "row_length": length,
        "x_offset": x.offset,
        "x_inner_rows": inner_rows,
        "x_outer_stride": space[0][1] if space else ZERO,
        "x_inner_stride": inner_stride,
    }
    lowering.call("rms_norm", {"x": x.tensor, "weight": weight, "y": y}, attrs, node=node)
    return Lowered(norm.nodes, ("rms_norm",))


def _weight(weight: Node, x: View, length: int, lowering: Lowering) -> int:
    """The weight; before its casts where the kernel takes that dtype, so that a constant stays one."""
    accepted = (lowering.builder.tensor_info(x.tensor).dtype, lowering.device_dtype(torch.float32))
    source = skip(weight, casts=True)
    if lowering.device_dtype(tensor_of(source).dtype) in accepted:
        weight = source
    return lowering.operand(weight, (Dim(length),))

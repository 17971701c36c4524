"""Convolutions that are a product of windows and weights: of one dimension, as in front of audio, and image patches.

The windows are copied side by side. A convolution of two dimensions whose windows overlap stays outside: the copy would
be as many times larger than the image as its kernel has elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..lowering.graph import arguments, node_argument, op_name, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.shapes import permute, reshape
from ..lowering.values import cast, check_dtype, dense, temporary, whole
from ..lowering.view import View, add, scale
from ..program import Dim
from .matmul import emit_product
from .padding import emit_pad

_RANKS = {"aten.conv1d.default": 1, "aten.conv2d.default": 2}


@dataclass(frozen=True, slots=True)
class _Steps:
    """Of each spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def are_patches(self) -> bool:
        """Whether no element is in two windows, and none is padding."""
        return self.stride == self.kernel and not any(self.padding) and set(self.dilation) == {1}


def lower_convolution(node: Node, lowering: Lowering) -> Lowered:
    """x [N, C, *sizes] -> [N, O, *sizes]."""
    values, dtype = arguments(node), tensor_of(node).dtype
    steps = _read_steps(node, values)
    check_dtype("matmul", lowering.device_dtype(dtype), node)
    x = _padded(node, cast(lowering, node_argument(values, "input"), dtype), steps, lowering)
    weight = cast(lowering, node_argument(values, "weight"), dtype)
    sizes = lowering.dims(tensor_of(node).shape)
    windows = dense(lowering, _windows(x, sizes[2:], steps), f"{node.name}.windows")
    length, n_outputs = lowering.product(windows.sizes[len(sizes) - 1 :]), sizes[1]
    rows = lowering.product((sizes[0], *sizes[2:]))
    a = reshape(windows, (rows, length), lowering.multiply)
    b = reshape(dense(lowering, weight, f"{node.name}.weight"), (n_outputs, length), lowering.multiply)
    assert a is not None
    assert b is not None
    bias = values["bias"]
    row = whole(lowering, cast(lowering, bias, dtype), f"{node.name}.bias") if isinstance(bias, Node) else None
    y = lowering.new(node, (sizes[0], *sizes[2:], n_outputs))
    emit_product(node, a, permute(b, [1, 0]), row, y, lowering)
    lowering.bind_view(node, permute(lowering.dense_view(y), [0, len(sizes) - 1, *range(1, len(sizes) - 1)]))
    return Lowered((node,), ("matmul",))


RULES: dict[str, Callable[[Node, Lowering], Lowered]] = dict.fromkeys(
    (*_RANKS, "aten.convolution.default"), lower_convolution
)
WHOLE: tuple[torch._ops.OpOverload, ...] = ()


def _read_steps(node: Node, values: Mapping[str, object]) -> _Steps:
    kernel = tuple(tensor_of(node_argument(values, "weight")).shape[2:])
    rank = len(kernel)
    if tensor_of(node_argument(values, "input")).dim() != rank + 2:
        raise Unsupported(f"{node.name}: {op_name(node)} of one example; offered a batch")
    if values.get("transposed") or values["groups"] != 1:
        raise Unsupported(f"{node.name}: a transposed convolution, or one of {values['groups']} groups; offered plain")
    steps = _Steps(kernel, *(_each(values[name], rank) for name in ("stride", "padding", "dilation")))
    if rank > 2 or (rank == 2 and not steps.are_patches()):
        raise Unsupported(
            f"{node.name}: a convolution of kernel {kernel}, stride {steps.stride}, padding {steps.padding}; "
            "offered those of one dimension, and patches, whose stride is their kernel"
        )
    return steps


def _each(value: object, rank: int) -> tuple[int, ...]:
    assert isinstance(value, (list, tuple))
    return tuple(value) * (rank if len(value) == 1 else 1)


def _padded(node: Node, x: View, steps: _Steps, lowering: Lowering) -> View:
    """x with zeros around its spatial dimensions."""
    if not any(steps.padding):
        return x
    around = (0, 0, *steps.padding)
    sizes = [add(size, 2 * count) for size, count in zip(x.sizes, around, strict=True)]
    y = temporary(lowering, f"{node.name}.padded", lowering.builder.tensor_info(x.tensor).dtype, sizes)
    emit_pad(node, y, x, [Dim(count) for count in around], 0, lowering=lowering)
    return lowering.dense_view(y)


def _windows(x: View, counts: tuple[Dim, ...], steps: _Steps) -> View:
    """[N, *counts, C, *kernel]."""
    along = x.strides[2:]
    strides = (
        x.strides[0],
        *(scale(stride, step) for stride, step in zip(along, steps.stride, strict=True)),
        x.strides[1],
        *(scale(stride, step) for stride, step in zip(along, steps.dilation, strict=True)),
    )
    sizes = (x.sizes[0], *counts, x.sizes[1], *map(Dim, steps.kernel))
    return View(x.tensor, x.offset, sizes, strides)

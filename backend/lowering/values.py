"""Operands of element-wise kernels: casts, scalars and broadcasting, as views."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

import numpy as np
import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels._generated.signatures import SIGNATURES, CompareOp
from ..kernels.dtypes import DType
from ..program import Dim
from .aten import CASTS
from .copying import KERNEL_RANK, sizes_attrs, strides_attrs
from .graph import op_name, tensor_of
from .lowering import Lowered, Lowering
from .view import ONE, ZERO, View, collapse, is_dense

FLOATS = (DType.F32, DType.F16)
_NUMPY = {DType.F32: np.float32, DType.F16: np.float16, DType.I32: np.int32, DType.I8: np.int8, DType.U8: np.uint8}
_LIMITS = {DType.I32: (-(2**31), 2**31 - 1), DType.I8: (-128, 127), DType.U8: (0, 255)}
_LARGEST_HALF = 65504.0
Number = bool | int | float


def is_number(value: object) -> TypeGuard[Number]:
    """Whether an argument is a plain number."""
    return isinstance(value, (bool, int, float))


def number_of(lowering: Lowering, value: object) -> Number | None:
    """A plain number, or what a constant of one element holds, cast or not: edge graphs have numbers as tensors."""
    if is_number(value):
        return value
    dtypes: list[torch.dtype] = []
    while isinstance(value, Node) and op_name(value) in CASTS and isinstance(value.args[0], Node):
        dtypes.append(tensor_of(value).dtype)
        value = value.args[0]
    constant = lowering.constant(value) if isinstance(value, Node) and is_tensor(value) else None
    if constant is None or constant.data is None or constant.data.numel() != 1:
        return None
    data = constant.data.detach()
    for dtype in reversed(dtypes):
        data = data.to(dtype)
    found: Number = data.item()
    return found


def is_tensor(value: object) -> bool:
    """Whether an argument is a tensor rather than a number or a traced size."""
    return isinstance(value, Node) and isinstance(value.meta.get("val"), torch.Tensor)


def offered_dtypes(kernel: str, slot: str = "y") -> tuple[DType, ...]:
    """What a slot of a kernel may hold."""
    return SIGNATURES[kernel].slot(slot).dtypes


def check_dtype(kernel: str, dtype: DType, node: Node, offered: Sequence[DType] = (), *, slot: str = "y") -> None:
    """Raises Unsupported for a dtype that a slot of the kernel may not hold. offered: where it is fewer of them."""
    offered = offered or offered_dtypes(kernel, slot)
    if dtype not in offered:
        raise Unsupported(
            f"{node.name}: {kernel} of {dtype.value}; offered {', '.join(item.value for item in offered)}"
        )


def element(value: Number, dtype: DType) -> int | float:
    """A number as the device holds it. What is finite stays finite where compute_dtype made the storage half."""
    if dtype in FLOATS:
        with np.errstate(over="ignore"):
            single = float(np.float32(value))
        if dtype is DType.F16 and math.isfinite(single):
            return min(max(single, -_LARGEST_HALF), _LARGEST_HALF)
        return single
    low, high = _LIMITS[dtype]
    if not math.isfinite(value) or int(value) != value or not low <= value <= high:
        raise Unsupported(f"number {value} of {dtype.value}; offered integers from {low} to {high}")
    return int(value)


def bits_of(value: Number, dtype: DType) -> int:
    """The attribute `bits` of constant_pad: the pattern of an f32, or the integer."""
    exact = element(value, dtype)
    return int(struct.unpack("<i", struct.pack("<f", exact))[0]) if dtype in FLOATS else int(exact)


def scalar(lowering: Lowering, value: Number, dtype: DType) -> View:
    """A number as a constant of one element, read with strides of 0."""
    data = np.array([element(value, dtype)], _NUMPY[dtype])
    key = ("number", data.tobytes(), dtype)
    name = f"number_{dtype.value}"
    tensor = lowering.once(key, lambda: (lowering.builder.constant(name, dtype, (1,), data=data),))[0]
    return View(tensor, ZERO, (), ())


def size_scalar(lowering: Lowering, size: Dim, *, node: Node, dtype: DType = DType.I32) -> View:
    """A size, maybe known at run time only, as a tensor of one element."""
    if not size.terms:
        return scalar(lowering, size.base, dtype)
    check_dtype("arange", dtype, node)

    def make() -> tuple[int, ...]:
        y = lowering.builder.tensor(f"{node.name}.size", dtype, (1,))
        lowering.call("arange", {"y": y}, {"start": size, "step": 0}, node=node)
        return (y,)

    return View(lowering.once(("size", size, dtype), make)[0], ZERO, (), ())


def cast(lowering: Lowering, node: Node, dtype: torch.dtype) -> View:
    """A node's value in the device dtype of another torch dtype. To bool, anything but 0 is 1."""
    source = tensor_of(node).dtype
    before, after = lowering.device_dtype(source), lowering.device_dtype(dtype)
    view = lowering.view(node)
    if dtype is torch.bool and source is not torch.bool:
        if before is DType.I8:
            view = cast(lowering, node, torch.int32)
        return _made(lowering, node, "truth", DType.U8, lambda y: emit(lowering, "elementwise_compare", y, view.sizes,
                     {"a": view, "b": view}, {"op": CompareOp.LOGICAL_OR}, node=node))  # fmt: skip
    if before is after:
        return view
    return _made(lowering, node, after.value, after, lambda y: lowering.copy(view, lowering.dense_view(y),
                 name=f"{node.name}.{after.value}"))  # fmt: skip


def operand(lowering: Lowering, value: object, dtype: torch.dtype, sizes: Sequence[Dim]) -> View:
    """An argument, a node or a number, in this dtype and broadcast to these sizes."""
    number = number_of(lowering, value)
    if number is not None:
        return broadcast(scalar(lowering, number, lowering.device_dtype(dtype)), sizes)
    if isinstance(value, Node) and is_tensor(value):
        return broadcast(cast(lowering, value, dtype), sizes)
    if isinstance(value, Node) and isinstance(value.meta.get("val"), (int, torch.SymInt)):
        size = lowering.size(value)
        return broadcast(size_scalar(lowering, size, node=value, dtype=lowering.device_dtype(dtype)), sizes)
    raise Unsupported(f"operand {value!r}; need a tensor, a number or a size")


def broadcast(view: View, sizes: Sequence[Dim]) -> View:
    """The view with new leading dimensions, and dimensions of size 1 repeated."""
    missing = len(sizes) - len(view.sizes)
    strides = [ZERO] * missing
    for size, stride, wanted in zip(view.sizes, view.strides, sizes[missing:], strict=True):
        strides.append(ZERO if size == ONE and wanted != ONE else stride)
    return View(view.tensor, view.offset, tuple(sizes), tuple(strides))


def bind_empty(lowering: Lowering, node: Node) -> Lowered:
    """A value without elements: no kernel has anything to write."""
    lowering.bind_view(node, operand(lowering, 0, tensor_of(node).dtype, lowering.dims(tensor_of(node).shape)))
    return Lowered((node,), ())


def dense(lowering: Lowering, view: View, name: str) -> View:
    """The view itself when its elements follow each other, otherwise a copy of it."""
    return view if is_dense(view, lowering.multiply) else lowering.dense_view(whole(lowering, view, name))


def whole(lowering: Lowering, view: View, name: str) -> int:
    """A tensor of the view's elements alone, in their order: its own, or a copy."""
    count = lowering.product(lowering.builder.tensor_info(view.tensor).dims)
    if view.offset == ZERO and is_dense(view, lowering.multiply) and lowering.product(view.sizes) == count:
        return view.tensor
    tensor = temporary(lowering, f"{name}.dense", lowering.builder.tensor_info(view.tensor).dtype, view.sizes)
    lowering.copy(view, lowering.dense_view(tensor), name=f"{name}.dense")
    return tensor


def temporary(lowering: Lowering, name: str, dtype: DType, sizes: Sequence[Dim]) -> int:
    """A tensor that no node stands for. Raises Unsupported when it is larger than a binding may be."""
    tensor = lowering.builder.tensor(name, dtype, sizes)
    size, limit = lowering.builder.tensor_info(tensor).size_bytes, lowering.options.max_binding_bytes
    if size > limit:
        raise Unsupported(f"{name}: {size} bytes at the largest sizes; max_binding_bytes {limit}; lower the maximum")
    return tensor


def placed(
    lowering: Lowering, sizes: Sequence[Dim], views: Mapping[str, View], fixed: Sequence[str] = (), *, node: Node
) -> tuple[dict[str, int], dict[str, int | float | Dim]]:
    """Tensors by slot, and the attributes that say where each one's elements lie over sizes.

    views: of the same sizes. Where they do not merge into the kernel's dimensions, those not in `fixed` are
    copied: first the elements that they have, then repeated ones, too.
    """
    space = _merged(lowering, sizes, views)
    if len(space) > KERNEL_RANK:
        views = {slot: view if slot in fixed else _without_gaps(lowering, view, node.name)
                 for slot, view in views.items()}  # fmt: skip
        space = _merged(lowering, sizes, views)
    if len(space) > KERNEL_RANK:
        views = {slot: view if slot in fixed else dense(lowering, view, node.name) for slot, view in views.items()}
        space = _merged(lowering, sizes, views)
    if len(space) > KERNEL_RANK:
        raise Unsupported(f"{node.name}: operands of {len(space)} dimensions that do not merge; offered {KERNEL_RANK}")
    attrs: dict[str, int | float | Dim] = {**sizes_attrs([part[0] for part in space])}
    for index, (slot, view) in enumerate(views.items(), start=1):
        attrs |= strides_attrs(slot, view.offset, [part[index] for part in space])
    return {slot: view.tensor for slot, view in views.items()}, attrs


def emit(
    lowering: Lowering,
    kernel: str,
    y: int,
    sizes: Sequence[Dim],
    views: Mapping[str, View],
    attrs: Mapping[str, int | float | Dim],
    *,
    node: Node,
) -> None:
    """Appends a kernel whose strided slots are `views`, all of the same sizes, and whose y is dense over them."""
    for slot, view in views.items():
        check_dtype(kernel, lowering.builder.tensor_info(view.tensor).dtype, node, slot=slot)
    args, places = placed(lowering, sizes, views, node=node)
    lowering.call(kernel, {**args, "y": y}, {**attrs, **places}, node=node)


def _merged(lowering: Lowering, sizes: Sequence[Dim], views: Mapping[str, View]) -> list[tuple[Dim, ...]]:
    return collapse(sizes, *(view.strides for view in views.values()), multiply=lowering.multiply)


def _without_gaps(lowering: Lowering, view: View, name: str) -> View:
    """The view's own elements copied side by side; what repeats goes on repeating."""
    sizes = tuple(ONE if stride == ZERO else size for size, stride in zip(view.sizes, view.strides, strict=True))
    small = View(view.tensor, view.offset, sizes, view.strides)
    return broadcast(dense(lowering, small, name), view.sizes)


def _made(lowering: Lowering, node: Node, kind: str, dtype: DType, fill: Callable[[int], None]) -> View:
    def make() -> tuple[int, ...]:
        y = temporary(lowering, f"{node.name}.{kind}", dtype, lowering.view(node).sizes)
        fill(y)
        return (y,)

    return lowering.dense_view(lowering.once(("cast", node, kind), make)[0])

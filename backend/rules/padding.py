"""constant_pad_nd: a border of one value, or fewer elements where it is negative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..lowering.copying import KERNEL_RANK, sizes_attrs, strides_attrs
from ..lowering.graph import arguments, node_argument, op_name, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.shapes import narrow
from ..lowering.values import Number, bits_of, broadcast, is_number, offered_dtypes, scalar
from ..lowering.view import ONE, ZERO, View
from ..program import Dim


def lower_pad(node: Node, lowering: Lowering) -> Lowered:
    """One constant_pad call; of more dimensions or int8 a tensor of the value, and a copy into it."""
    values = arguments(node)
    if values.get("mode", "constant") != "constant":
        raise Unsupported(f"{op_name(node)} in mode {values['mode']}; offered constant")
    given, pad = values["value"], values["pad"]
    value: Number = given if is_number(given) else 0
    assert isinstance(pad, (list, tuple))
    view = lowering.view(node_argument(values, "self"))
    before = [ZERO] * (len(view.sizes) - len(pad) // 2) + [lowering.size(item) for item in pad[::2]][::-1]
    dtype = lowering.device_dtype(tensor_of(node).dtype)
    sizes = lowering.dims(tensor_of(node).shape)
    if len(sizes) <= KERNEL_RANK and dtype in offered_dtypes("constant_pad"):
        emit_pad(node, lowering.new(node), view, before, bits_of(value, dtype), lowering=lowering)
        return Lowered((node,), ("constant_pad",))
    target = lowering.dense_view(lowering.new(node))
    lowering.copy(broadcast(scalar(lowering, value, dtype), sizes), target, name=f"{node.name}.border")
    place = target
    for axis, (start, size) in enumerate(zip(before, view.sizes, strict=True)):
        if start == ZERO and size == sizes[axis]:
            continue
        if (
            start.terms
            or start.base < 0
            or size.terms
            or sizes[axis].terms
            or size.base + start.base > sizes[axis].base
        ):
            raise Unsupported(f"{op_name(node)} of {len(sizes)} dimensions by {list(pad)}; offered {KERNEL_RANK}")
        place = narrow(place, axis, start, size, multiply=lowering.multiply)
    lowering.copy(view, place, name=node.name)
    return Lowered((node,), ("strided_copy",))


def emit_pad(node: Node, y: int, view: View, before: Sequence[Dim], bits: int, *, lowering: Lowering) -> None:
    """One constant_pad call, of at most four dimensions, into all of y. bits: see values.bits_of."""
    sizes = lowering.builder.tensor_info(y).dims
    missing = KERNEL_RANK - len(sizes)
    attrs: dict[str, int | float | Dim] = {"bits": bits}
    attrs |= sizes_attrs(list(sizes)) | strides_attrs("x", view.offset, list(view.strides))
    attrs |= {f"x_size{axis}": size for axis, size in enumerate([ONE] * missing + list(view.sizes))}
    attrs |= {f"before{axis}": size for axis, size in enumerate([ZERO] * missing + list(before))}
    lowering.call("constant_pad", {"x": view.tensor, "y": y}, attrs, node=node)


RULES: dict[str, Callable[[Node, Lowering], Lowered]] = {
    "aten.constant_pad_nd.default": lower_pad,
    "aten.pad.default": lower_pad,
}
WHOLE: tuple[torch._ops.OpOverload, ...] = ()

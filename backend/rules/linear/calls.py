"""The kernel calls and constants of one quantized linear. Tensors and layouts: docs/design.md section 4."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import Node

from ...errors import Unsupported
from ...kernels.dtypes import DType
from ...lowering.graph import Constant, tensor_of
from ...lowering.lowering import Lowering
from ...lowering.packing import Layout, pack_sums, pack_terms
from ...lowering.tables import column_bytes
from .activation import Activation, zero_point_device_dtype
from .packed import Packing, QuantizedMatrix, rows_of
from .weight import Weight

_SMALLEST_HALF, _LARGEST_HALF = 2.0**-14, 65504.0


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear that can be lowered. activation None: weight-only, of x as it is."""

    node: Node
    x: Node
    activation: Activation | None
    weight: Weight
    bias: Constant | None
    layout: Layout

    @property
    def handles(self) -> tuple[int, ...]:
        """ExecuTorch's debug handle of the node, when it has one."""
        handle = self.node.meta.get("debug_handle")
        return (handle,) if isinstance(handle, int) else ()

    @property
    def packing(self) -> dict[str, int | float]:
        layout = self.layout
        return {"group_size": layout.group_size, "group_padded": layout.group_padded, "step": layout.step}


def emit_linear(linear: Linear, lowering: Lowering) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Adds the calls. Returns the output's column pieces and the kernels called."""
    builder, name = lowering.builder, linear.node.name
    y = tensor_of(linear.node)
    y_dtype = lowering.float_dtype(y.dtype)
    lead = lowering.dims(y.shape[:-1])
    matrix = _matrix(linear, y_dtype, lowering)
    least = column_bytes(y_dtype, lead, lowering)
    columns = matrix.pieces(name, linear.weight.n_outputs, lowering, unit="output column", least=least)
    x = lowering.operand(linear.x)
    _check_fits(lowering, linear.x.name, builder.tensor_info(x).size_bytes)
    dynamic = linear.activation is not None
    kernel = "linear_dq8ca" if dynamic else "linear_qgsw"
    inputs = _quantize(linear, linear.activation, x, lowering=lowering) if linear.activation is not None else {"x": x}
    pieces = []
    for start, stop in columns:
        tensor = builder.tensor(f"{name}.y", y_dtype, (*lead, stop - start))
        constants = _constants(linear, matrix, slice(start, stop), lowering=lowering)
        attrs: dict[str, int | float] = {"step": linear.layout.step} if dynamic else linear.packing
        builder.call(kernel, {**inputs, **constants, "y": tensor}, attrs, name=name, debug_handles=linear.handles)
        pieces.append(tensor)
    quantizers = ("choose_qparams_per_row", "quantize_and_pack") if dynamic else ()
    return tuple(pieces), (*quantizers, kernel)


def _check_fits(lowering: Lowering, name: str, size_bytes: int) -> None:
    limit = lowering.options.max_binding_bytes
    if size_bytes > limit:
        raise Unsupported(
            f"{name}: {size_bytes} bytes at the largest sizes; max_binding_bytes {limit}; lower the maximum"
        )


def _quantize(linear: Linear, activation: Activation, x: int, *, lowering: Lowering) -> dict[str, int | None]:
    """The quantized activation, made once for all linears that ask for the same."""
    builder, layout, storage = lowering.builder, linear.layout, lowering.options.qparams_storage
    compute = lowering.float_dtype(tensor_of(activation.x).dtype)
    zp_dtype = zero_point_device_dtype(activation.zero_point_dtype, compute, lowering.options)
    rows = builder.tensor_info(x).dims[:-1]
    name, limits = linear.x.name, {"qmin": activation.qmin, "qmax": activation.qmax}
    with_sums = linear.weight.has_zeros()
    sizes = {
        f"{name}.q": builder.size_bytes(DType.I8, (*rows, layout.packed_length)),
        f"{name}.group_sums": builder.size_bytes(DType.I32, (*rows, layout.steps)) if with_sums else 0,
    }
    for part, size_bytes in sizes.items():
        _check_fits(lowering, part, size_bytes)

    def choose() -> tuple[int, ...]:
        scale = builder.tensor(f"{name}.scale", DType.F32, rows, storage=storage)
        zp = builder.tensor(f"{name}.zp", zp_dtype, rows, storage=storage)
        args, attrs = (
            {"x": x, "scale": scale, "zp": zp},
            {"mapping": activation.mapping, **limits, "eps": activation.eps},
        )
        builder.call(
            "choose_qparams_per_row",
            args,
            attrs,
            name=f"{name}.choose_qparams",
            debug_handles=linear.handles,
        )
        return scale, zp

    def quantize() -> tuple[int, ...]:
        q = builder.tensor(f"{name}.q", DType.I8, (*rows, layout.packed_length))
        sums = builder.tensor(f"{name}.group_sums", DType.I32, (*rows, layout.steps)) if with_sums else None
        args = {"x": x, "scale": scale, "zp": zp, "q": q, "group_sums": sums}
        attrs = {"rounding": activation.rounding, **limits, **linear.packing}
        builder.call(
            "quantize_and_pack",
            args,
            attrs,
            name=f"{name}.quantize",
            debug_handles=linear.handles,
        )
        return (q,) if sums is None else (q, sums)

    scale, zp = lowering.once(("choose", x, activation.key), choose)
    made = lowering.once(("quantize", x, activation.key, layout, with_sums), quantize)
    return {"q": made[0], "scale": scale, "zp": zp, "group_sums": made[1] if with_sums else None}


def _constants(linear: Linear, matrix: QuantizedMatrix, columns: slice, *, lowering: Lowering) -> dict[str, int | None]:
    """w, w_scale, w_sum (where _adds_up does not hold), w_zp, bias of these output columns."""
    weight, layout, prefix = linear.weight, linear.layout, linear.node.name
    steps = (layout.steps, columns.stop - columns.start)
    made = matrix.constants(columns)

    def sums() -> npt.NDArray[np.int32]:
        codes, zeros = rows_of(weight.code_array, columns, torch.int8), rows_of(weight.zero_array, columns, torch.int32)
        return pack_sums(codes, zeros, layout)

    if linear.activation is not None and not _adds_up(linear, lowering):
        made["w_sum"] = Packing(DType.I32, steps, sums)
    if weight.has_terms:
        terms = weight.term_array
        made["w_zp"] = Packing(DType.F32, steps, lambda: pack_terms(rows_of(terms, columns, torch.float32), layout))

    slots: dict[str, int | None] = {}
    for slot in sorted(made):
        key = (slot, weight.key, made[slot].dtype, columns.start, columns.stop)
        slots[slot] = made[slot].declare(f"{prefix}.{slot}", key, lowering)
    if linear.bias is not None:
        slots["bias"] = _bias(linear.bias, f"{prefix}.bias", columns, lowering=lowering)
    return slots


def _matrix(linear: Linear, y_dtype: DType, lowering: Lowering) -> QuantizedMatrix:
    weight = linear.weight
    rounds = y_dtype is DType.F16 and not weight.has_terms and _survives_half(weight)
    half = rounds or (_adds_up(linear, lowering) and weight.has_half_scales())
    zeros = weight.zero_array if weight.has_zeros() and not weight.has_terms else None
    return QuantizedMatrix(linear.layout, weight.bits, weight.code_array, weight.scale_array, zeros, half)


def _adds_up(linear: Linear, lowering: Lowering) -> bool:
    """Whether the kernel adds up the weights of each step itself, so that no w_sum is stored, and takes any w_scale."""
    weight, activation = linear.weight, linear.activation
    if activation is None or weight.has_terms or weight.has_zeros():
        return False
    compute = lowering.float_dtype(tensor_of(activation.x).dtype)
    zp = zero_point_device_dtype(activation.zero_point_dtype, compute, lowering.options)
    return zp is DType.I8 and lowering.options.qparams_storage == "buffer"


def _bias(bias: Constant, name: str, columns: slice, *, lowering: Lowering) -> int:
    def make() -> tuple[int, ...]:
        width = columns.stop - columns.start
        return (
            lowering.builder.constant(name, DType.F32, (width,), data=lambda: bias.array().float()[columns].numpy()),
        )

    return lowering.once(("bias", bias.name, columns.start, columns.stop), make)[0]


def _survives_half(weight: Weight) -> bool:
    """Whether every scale is 0 or a normal float16 after rounding, so that its relative error is at most 2^-11."""
    scales = weight.scale_data()
    if scales is None:
        return False
    sizes = scales.float().abs()
    normal = (sizes >= _SMALLEST_HALF) & (sizes <= _LARGEST_HALF)
    return bool((normal | (sizes == 0)).all())

"""Embeddings: rows of a table of floats or of quantized integers, in pieces where it is larger than a binding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels.dtypes import DType
from ..lowering.graph import Constant, arguments, node_argument, op_name, operator_of, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.packing import Layout
from ..lowering.tables import row_pieces, table_rows
from .linear.packed import Packing, QuantizedMatrix, rows_of
from .linear.weight import is_dequantize, read_weight

_QUANTIZED = ("torchao", "quantized_decomposed")
_BYTE = ("quantized_decomposed.embedding_byte.default", "quantized_decomposed.embedding_byte.dtype")
_NIBBLE = ("quantized_decomposed.embedding_4bit.default", "quantized_decomposed.embedding_4bit.dtype")


@dataclass(frozen=True, slots=True)
class _Table:
    """A quantized table [rows, width]. The functions give codes, scales and zero points [rows, groups] when written."""

    name: str
    rows: int
    width: int
    group_size: int
    bits: int
    codes: Callable[[], torch.Tensor]
    scales: Callable[[], torch.Tensor]
    zeros: Callable[[], torch.Tensor] | None
    nodes: tuple[Node, ...]
    has_half_scales: bool = False

    @property
    def groups(self) -> int:
        """Groups in a row."""
        return self.width // self.group_size


def lower_embedding(node: Node, lowering: Lowering) -> Lowered:
    """embedding of a constant or computed table [V, D]."""
    values = arguments(node)
    table, ids = node_argument(values, "weight"), node_argument(values, "indices")
    if is_dequantize(table):
        return _emit_quantized(node, _read_dequantize(table, lowering), ids, lowering)
    target = operator_of(table)
    if target is not None and target.namespace in _QUANTIZED:
        raise Unsupported(f"table {table.name} is {op_name(table)}; offered constants, and dequantized constants")
    dtype, index = lowering.float_dtype(tensor_of(table).dtype), _ids(ids, lowering)
    constant, pieces = lowering.constant(table), [(0, -1)]
    if constant is not None:
        ranges = row_pieces(constant.name, constant.shape[0], constant.shape[1] * dtype.bits // 8, lowering)
        if len(ranges) > 1:
            pieces = [(rows[0], table_rows(constant, dtype, rows, 0, lowering)) for rows in ranges]
    y = lowering.new(node)
    for first, piece in pieces:
        args = {"ids": index, "table": lowering.operand(table) if piece < 0 else piece, "y": y}
        lowering.call("embedding", args, {"first_row": first}, node=node)
    return Lowered((node,), ("embedding",))


def lower_quantized(node: Node, lowering: Lowering) -> Lowered:
    """ExecuTorch's embedding of int8 rows, or of int4 ones two to a byte."""
    values = arguments(node)
    names = ("weight", "weight_scales", "weight_zero_points")
    codes, scales = (_constant(values[name], name, lowering) for name in names[:2])
    zeros = None if values[names[2]] is None else _constant(values[names[2]], names[2], lowering)
    packed = op_name(node) in _NIBBLE
    wanted = torch.uint8 if packed else torch.int8
    if codes.dtype is not wanted:
        raise Unsupported(f"{op_name(node)}: table {codes.name} is {codes.dtype}; offered {wanted}")
    rows, width = codes.shape[0], codes.shape[1] * (2 if packed else 1)
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    table = _Table(
        name=codes.name,
        rows=rows,
        width=width,
        group_size=width // groups,
        bits=4 if packed else 8,
        codes=lambda: _unpacked(codes.array()) if packed else codes.array(),
        scales=lambda: scales.array().float().reshape(rows, groups),
        zeros=_zeros(zeros, rows),
        nodes=tuple(item for part in (codes, scales, zeros) if part for item in part.nodes if item.op != "placeholder"),
    )
    return _emit_quantized(node, table, node_argument(values, "indices"), lowering)


def _unpacked(codes: torch.Tensor) -> torch.Tensor:
    """Bytes of two numbers from 0 to 15, the first one high, as int8 from -8 to 7."""
    return (torch.stack((codes >> 4, codes & 15), -1).reshape(len(codes), -1).to(torch.int8)) - 8


def _read_dequantize(node: Node, lowering: Lowering) -> _Table:
    weight = read_weight(node, lowering)
    if weight.has_terms:
        raise Unsupported(f"zero points of the table {weight.codes.name} are not all integers")
    zeros = _zeros(weight.zeros, weight.n_outputs) if weight.has_zeros() else None
    return _Table(
        name=weight.codes.name,
        rows=weight.n_outputs,
        width=weight.row_length,
        group_size=weight.group_size,
        bits=weight.bits,
        codes=weight.code_array,
        scales=weight.scale_array,
        zeros=None if zeros is None else weight.zero_array,
        nodes=weight.nodes,
        has_half_scales=zeros is None and weight.has_half_scales(),  # as of a linear
    )


def _zeros(zeros: Constant | None, rows: int) -> Callable[[], torch.Tensor] | None:
    """Zero points [rows, groups] where some are not 0. Raises Unsupported for those that int8 does not hold."""
    if zeros is None or (zeros.data is not None and not bool(zeros.data.any())):
        return None
    if zeros.data is not None:
        values = zeros.data.double()
        if not bool((values == values.round()).all()) or float(values.min()) < -128 or float(values.max()) > 127:
            raise Unsupported(f"zero points {zeros.name} of a table are not all integers from -128 to 127")
    return lambda: zeros.array().reshape(rows, -1)


def _constant(value: object, name: str, lowering: Lowering) -> Constant:
    found = lowering.constant(value) if isinstance(value, Node) else None
    if found is None:
        raise Unsupported(f"table's {name} {value} is not a constant")
    return found


def _ids(node: Node, lowering: Lowering) -> int:
    assert tensor_of(node).dtype in (torch.int64, torch.int32), f"{node.name}: {tensor_of(node).dtype}"
    return lowering.operand(node)


def _emit_quantized(node: Node, table: _Table, ids: Node, lowering: Lowering) -> Lowered:
    """Packed as a linear's weight where that pads nothing: a model whose last linear is its table then has it once."""
    index, y = _ids(ids, lowering), lowering.new(node)
    layout = Layout.of(table.width, table.group_size)
    attrs = {"row_length": table.width, "group_size": table.group_size}
    if layout.packed_length == table.width:
        kernel = "embedding_packed"
        attrs |= {"group_padded": layout.group_padded, "step": layout.step}
        matrix = QuantizedMatrix(layout, table.bits, table.codes, table.scales, table.zeros, table.has_half_scales)
        pieces, constants = matrix.pieces(table.name, table.rows, lowering), matrix.constants
    else:
        kernel = "embedding_quantized"
        row_bytes = max(-(-table.width * table.bits // 8), table.groups * 4)
        pieces, constants = row_pieces(table.name, table.rows, row_bytes, lowering), partial(_plain, table)
    for first, end in pieces:
        slots: dict[str, int | None] = {"ids": index, "y": y}
        for slot, found in constants(slice(first, end)).items():
            name = f"{table.name}.{slot}"
            key = ("table", name, found.dtype, first, end, table.group_size)
            slots[slot] = found.declare(name, key, lowering)
        lowering.call(kernel, slots, {**attrs, "first_row": first}, node=node)
    return Lowered((*table.nodes, node), (kernel,))


def _plain(table: _Table, rows: slice) -> dict[str, Packing]:
    """table, scale and w_zp of embedding_quantized."""
    dims, zeros = (rows.stop - rows.start, table.groups), table.zeros
    width = table.width if table.bits == 8 else -(-table.width // 2) * 2
    found = {
        "table": Packing(DType(f"i{table.bits}"), (dims[0], width), lambda: pack_rows(table.codes()[rows], table.bits)),
        "scale": Packing(DType.F32, dims, lambda: rows_of(table.scales, rows, torch.float32)),
    }
    if zeros is not None:
        found["w_zp"] = Packing(DType.I8, dims, lambda: rows_of(zeros, rows, torch.int8))
    return found


def pack_rows(codes: torch.Tensor, bits: int) -> npt.NDArray[np.generic]:
    """int8 [rows, width] as the kernels read it: of 4 bits two to a byte, the first one low, a row padded to bytes."""
    if bits == 8:
        whole: npt.NDArray[np.generic] = codes.contiguous().numpy()
        return whole
    padded = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2)).numpy().view(np.uint8)
    packed: npt.NDArray[np.generic] = (padded[:, ::2] & 15) | (padded[:, 1::2] << 4)
    return np.ascontiguousarray(packed)


WHOLE = (torch.ops.aten.embedding.default,)
RULES = {"aten.embedding.default": lower_embedding, **dict.fromkeys((*_BYTE, *_NIBBLE), lower_quantized)}

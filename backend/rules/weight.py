"""Recognizes a quantized weight: integers, scales and zero points that a dequantize op turns into a [N, K] matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from ..errors import Unsupported
from .graph import Constant, arguments, node_argument, op_name
from .lowering import Lowering

_AFFINE = "torchao.dequantize_affine.default"
_PER_GROUP = "quantized_decomposed.dequantize_per_channel_group.default"
_PER_CHANNEL = "quantized_decomposed.dequantize_per_channel.default"
DEQUANTIZE = (_AFFINE, _PER_GROUP, _PER_CHANNEL)
MAX_ZERO_POINT = 255


@dataclass(frozen=True, slots=True)
class Weight:
    """codes [N, K] int8; scales and zeros, viewed as [N / rows, K / group_size]. bits: 4 or 8, as it is packed."""

    codes: Constant
    scales: Constant
    zeros: Constant | None
    n_outputs: int
    row_length: int
    group_size: int
    block_rows: int
    bits: int
    nodes: tuple[Node, ...]

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """Equal for weights of the same content."""
        zeros = self.zeros.name if self.zeros is not None else ""
        return (self.codes.name, self.scales.name, zeros, self.group_size, self.bits)

    def code_array(self) -> torch.Tensor:
        """int8 [N, K]."""
        return self.codes.array()

    def scale_array(self) -> torch.Tensor:
        """f32 [N, groups]."""
        return self._per_group(self.scales.array().float())

    def zero_array(self) -> torch.Tensor:
        """int32 [N, groups]; zeros when the weight is symmetric."""
        if self.zeros is None:
            return torch.zeros(self.n_outputs, self.row_length // self.group_size, dtype=torch.int32)
        return self._per_group(self.zeros.array().to(torch.int32))

    def has_zeros(self) -> bool:
        """Whether some zero point is not 0; assumed not while the data is unknown."""
        return self.zeros is not None and self.zeros.data is not None and bool(self.zeros.data.any())

    def _per_group(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(self.n_outputs // self.block_rows, -1).repeat_interleave(self.block_rows, 0)


def is_dequantize(node: Node) -> bool:
    """Whether the node dequantizes what may be a constant weight."""
    return op_name(node) in DEQUANTIZE


def read_weight(node: Node, lowering: Lowering) -> Weight:
    """The weight that a dequantize node makes. Raises Unsupported with the reason."""
    assert is_dequantize(node), node.name
    values = arguments(node)
    names = ("input", "scale", "zero_point") if op_name(node) == _AFFINE else ("input", "scales", "zero_points")
    codes = _constant(lowering, values, names[0])
    scales = _constant(lowering, values, names[1])
    zeros = None if values[names[2]] is None else _constant(lowering, values, names[2])
    if codes.dtype is not torch.int8 or len(codes.shape) != 2:
        raise Unsupported(
            f"weight codes {codes.name} are {codes.dtype} of rank {len(codes.shape)}; offered int8 [N, K]"
        )
    n_outputs, row_length = codes.shape
    block_rows, group_size = _block(op_name(node), values, scales, (n_outputs, row_length))
    _check_scales(scales, n_outputs * row_length // (block_rows * group_size))
    bits = _bits(codes, values)
    if zeros is not None:
        _check_zeros(zeros, scales)
        if zeros.dtype is torch.int8 and bits == 8 and op_name(node) != _AFFINE:
            raise Unsupported(
                f"weight zero points {zeros.name} are int8: {op_name(node)} lets int8 differences wrap around"
            )
    nodes = (*codes.nodes, *scales.nodes, *(zeros.nodes if zeros is not None else ()), node)
    return Weight(
        codes=codes,
        scales=scales,
        zeros=zeros,
        n_outputs=n_outputs,
        row_length=row_length,
        group_size=group_size,
        block_rows=block_rows,
        bits=bits,
        nodes=tuple(item for item in nodes if item.op == "call_function"),
    )


def _constant(lowering: Lowering, values: Mapping[str, object], name: str) -> Constant:
    node = node_argument(values, name)
    found = lowering.constant(node)
    if found is None:
        raise Unsupported(f"weight {name} {node.name} is not a constant")
    return found


def _block(op: str, values: Mapping[str, object], scales: Constant, shape: tuple[int, int]) -> tuple[int, int]:
    """(rows, inputs) that share one scale."""
    n_outputs, row_length = shape
    if op == _PER_CHANNEL:
        if values["axis"] not in (0, -2):
            raise Unsupported(f"weight is quantized per channel of axis {values['axis']}; offered axis 0, the outputs")
        return 1, row_length
    if op == _PER_GROUP:
        group_size = values["group_size"]
        if isinstance(group_size, int) and group_size > row_length and scales.shape[-1] == 1:
            group_size = row_length
        block: object = (1, group_size)
    else:
        block = values["block_size"]
    assert isinstance(block, (list, tuple)), f"{op}: block_size {block}"
    rows, group_size = block
    assert isinstance(rows, int), f"{op}: block_size {block}"
    assert isinstance(group_size, int), f"{op}: block_size {block}"
    assert n_outputs % rows == 0, f"{op}: block_size {block} of {shape}"
    assert row_length % group_size == 0, f"{op}: block_size {block} of {shape}"
    return rows, group_size


def _check_scales(scales: Constant, count: int) -> None:
    if scales.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise Unsupported(f"weight scales {scales.name} are {scales.dtype}; offered floating point")
    n_scales = torch.Size(scales.shape).numel()
    if n_scales != count:
        raise Unsupported(f"weight scales {scales.name}: {n_scales} values for {count} groups")
    if scales.data is None:
        return
    if not bool(torch.isfinite(scales.data).all()):
        raise Unsupported(f"weight scales {scales.name} are not all finite")
    if scales.dtype is torch.float64 and not torch.equal(scales.data.float().double(), scales.data):
        raise Unsupported(f"weight scales {scales.name} are float64 and not all exact in float32")


def _check_zeros(zeros: Constant, scales: Constant) -> None:
    if torch.Size(zeros.shape).numel() != torch.Size(scales.shape).numel():
        raise Unsupported(
            f"weight zero points {zeros.name} {list(zeros.shape)} do not match scales {list(scales.shape)}"
        )
    if zeros.data is None:
        return
    values = zeros.data.double()
    if not bool((values == values.round()).all()) or float(values.abs().max()) > MAX_ZERO_POINT:
        raise Unsupported(
            f"weight zero points {zeros.name} are not all integers within [-{MAX_ZERO_POINT}, {MAX_ZERO_POINT}]"
        )


def _bits(codes: Constant, values: Mapping[str, object]) -> int:
    """4 when both the declared range and the data fit int4; data outside its declared range is kept, as 8 bits."""
    low, high = values["quant_min"], values["quant_max"]
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or low < -8 or high > 7:
        return 8
    if codes.data is None or codes.data.numel() == 0:
        return 4
    smallest, largest = torch.aminmax(codes.data)
    return 4 if int(smallest) >= -8 and int(largest) <= 7 else 8

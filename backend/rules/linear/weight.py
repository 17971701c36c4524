"""Recognizes a quantized weight: integers, scales and zero points that a dequantize op turns into a [N, K] matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from ...errors import Unsupported
from ...lowering.graph import Constant, arguments, node_argument, op_name
from ...lowering.lowering import Lowering
from ...quantization.gguf_blocks import TYPES, Blocks, read_blocks

_AFFINE = "torchao.dequantize_affine.default"
_PER_GROUP = "quantized_decomposed.dequantize_per_channel_group.default"
_PER_CHANNEL = "quantized_decomposed.dequantize_per_channel.default"
GGUF = "torchao.dequantize_gguf.default"  # ExecuTorch's operator, of the blocks of a GGUF file as they are
DEQUANTIZE = (_AFFINE, _PER_GROUP, _PER_CHANNEL, GGUF)
MAX_ZERO_POINT = 255


@dataclass(frozen=True, slots=True)
class Weight:
    """codes [N, K] int8; scales and zeros, viewed as [N / rows, K / group_size]. bits: 4 or 8, as it is packed.

    has_terms: zeros are not all integers, and so go to the device as float terms, scale * zero.
    """

    codes: Constant
    scales: Constant
    zeros: Constant | None
    n_outputs: int
    row_length: int
    group_size: int
    block_rows: int
    bits: int
    nodes: tuple[Node, ...]
    has_terms: bool = False

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
        """int32 [N, groups]; zeros when the weight is symmetric, or has terms instead."""
        if self.zeros is None or self.has_terms:
            return torch.zeros(self.n_outputs, self.row_length // self.group_size, dtype=torch.int32)
        return self._per_group(self.zeros.array().to(torch.int32))

    def term_array(self) -> torch.Tensor:
        """f32 [N, groups]: scale * zero, rounded once."""
        assert self.zeros is not None
        return self._per_group((self.scales.array().double() * self.zeros.array().double()).float())

    def scale_data(self) -> torch.Tensor | None:
        """Scales in any shape; None while they are unknown."""
        return self.scales.data

    def has_half_scales(self) -> bool:
        """Whether every scale is a float16; not while they are unknown."""
        scales = self.scale_data()
        return scales is not None and bool((scales.float() == scales.half().float()).all())

    def has_zeros(self) -> bool:
        """Whether some zero point is not 0; assumed not while the data is unknown."""
        return self.zeros is not None and self.zeros.data is not None and bool(self.zeros.data.any())

    def _per_group(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(self.n_outputs // self.block_rows, -1).repeat_interleave(self.block_rows, 0)


@dataclass(frozen=True, slots=True)
class BlockWeight(Weight):
    """Blocks of a GGUF type: all constants are the one of bytes, which is read whenever it is asked for."""

    kind: str = ""

    def code_array(self) -> torch.Tensor:
        return torch.from_numpy(self._blocks().codes)

    def scale_array(self) -> torch.Tensor:
        return torch.from_numpy(self._blocks().scales)

    def term_array(self) -> torch.Tensor:
        terms = self._blocks().terms
        assert terms is not None
        return torch.from_numpy(terms)

    def scale_data(self) -> torch.Tensor | None:
        return None if self.codes.data is None else self.scale_array()

    def has_zeros(self) -> bool:
        return self.has_terms

    def _blocks(self) -> Blocks:
        return read_blocks(self.codes.array().numpy(), self.kind)


def is_dequantize(node: Node) -> bool:
    """Whether the node dequantizes what may be a constant weight."""
    return op_name(node) in DEQUANTIZE


def read_weight(node: Node, lowering: Lowering) -> Weight:
    """The weight that a dequantize node makes. Raises Unsupported with the reason."""
    assert is_dequantize(node), node.name
    values = arguments(node)
    if op_name(node) == GGUF:
        return _read_blocks(node, values, lowering)
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
    has_terms = False
    if zeros is not None:
        has_terms = _check_zeros(zeros, scales)
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
        has_terms=has_terms,
    )


def _read_blocks(node: Node, values: Mapping[str, object], lowering: Lowering) -> BlockWeight:
    raw, kind = _constant(lowering, values, "weight"), str(values["ggml_type"])
    if kind not in TYPES:
        raise Unsupported(f"weight {raw.name} has blocks of {kind}; offered {', '.join(TYPES)}")
    block = TYPES[kind]
    n_outputs, row_bytes = raw.shape
    return BlockWeight(
        codes=raw,
        scales=raw,
        zeros=None,
        n_outputs=n_outputs,
        row_length=row_bytes // block.size_bytes * block.weights,
        group_size=block.group_size,
        block_rows=1,
        bits=block.bits,
        nodes=tuple(item for item in (*raw.nodes, node) if item.op == "call_function"),
        has_terms=block.has_terms,
        kind=kind,
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


def _check_zeros(zeros: Constant, scales: Constant) -> bool:
    """Whether there are zero points that integers of the kernels do not hold."""
    if torch.Size(zeros.shape).numel() != torch.Size(scales.shape).numel():
        raise Unsupported(
            f"weight zero points {zeros.name} {list(zeros.shape)} do not match scales {list(scales.shape)}"
        )
    if zeros.data is None:
        return False
    values = zeros.data.double()
    if not bool(torch.isfinite(values).all()):
        raise Unsupported(f"weight zero points {zeros.name} are not all finite")
    if bool((values == values.round()).all()) and float(values.abs().max()) <= MAX_ZERO_POINT:
        return False
    if not zeros.dtype.is_floating_point:
        raise Unsupported(
            f"weight zero points {zeros.name} are not all integers within [-{MAX_ZERO_POINT}, {MAX_ZERO_POINT}]"
        )
    return True


def _bits(codes: Constant, values: Mapping[str, object]) -> int:
    """4 when both the declared range and the data fit int4; data outside its declared range is kept, as 8 bits."""
    low, high = values["quant_min"], values["quant_max"]
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or low < -8 or high > 7:
        return 8
    if codes.data is None or codes.data.numel() == 0:
        return 4
    smallest, largest = torch.aminmax(codes.data)
    return 4 if int(smallest) >= -8 and int(largest) <= 7 else 8

"""Recognizes a per-token dynamically quantized activation: choose_qparams -> quantize -> dequantize.

Two namespaces: `torchao.*_affine` and `quantized_decomposed.*_per_token`. Sources: torchao 0.18 quant_primitives.py,
torch 2.13 ao/quantization/fx/_decomposed.py. Chains that compute another function than the kernels raise Unsupported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from ...errors import Unsupported
from ...kernels.dtypes import DType
from ...lowering.graph import arguments, node_argument, op_name, static_dim, tensor_of
from ...lowering.options import CompileOptions

SMALLEST_NORMAL = torch.finfo(torch.float32).smallest_normal
_MAPPINGS = {"ASYMMETRIC": 0, "SYMMETRIC": 1}
_TORCHAO = ("torchao.choose_qparams_affine.default", "torchao.quantize_affine.default")
_PER_TOKEN_QUANTIZE = "quantized_decomposed.quantize_per_token.default"
_PER_TOKEN_CHOOSE = {
    "quantized_decomposed.choose_qparams_per_token_asymmetric.default": (2, 1, torch.finfo(torch.float32).eps),
    "quantized_decomposed.choose_qparams_per_token.default": (3, 2, 1e-5),
}
_ZERO_POINTS = {
    torch.int8: DType.I8,
    torch.int32: DType.I32,
    torch.int64: DType.I32,
    torch.float32: DType.F32,
    torch.float16: DType.F16,
    torch.bfloat16: DType.F32,
}


@dataclass(frozen=True, slots=True)
class Activation:
    """x quantized per token. mapping, rounding: docs/design.md section 4. nodes: from choose_qparams to the result."""

    x: Node
    mapping: int
    rounding: int
    qmin: int
    qmax: int
    eps: float
    zero_point_dtype: torch.dtype
    nodes: tuple[Node, ...]

    @property
    def key(self) -> tuple[int | float | torch.dtype, ...]:
        """Equal for chains that compute the same thing of the same x."""
        return (self.mapping, self.rounding, self.qmin, self.qmax, self.eps, self.zero_point_dtype)


def is_dequantize(node: Node) -> bool:
    """Whether the node is the end of a chain that this module reads."""
    return op_name(node) in ("torchao.dequantize_affine.default", "quantized_decomposed.dequantize_per_token.default")


def read_activation(node: Node) -> Activation:
    """The chain that ends in `node`, a dequantize. Raises Unsupported with the reason."""
    if op_name(node).startswith("torchao"):
        return _read_torchao(node)
    return _read_per_token(node)


def zero_point_device_dtype(dtype: torch.dtype, compute: DType, options: CompileOptions) -> DType:
    """What a zero point that the graph types so is allocated as."""
    device = _ZERO_POINTS[dtype]
    if dtype.is_floating_point and options.float_zero_point == "compute":
        return compute
    return device


def _read_torchao(node: Node) -> Activation:
    dequantize = arguments(node)
    quantize_node = node_argument(dequantize, "input")
    _expect(quantize_node, _TORCHAO[1])
    quantize = arguments(quantize_node)
    choose_node, pair = _qparams(quantize, "scale", "zero_point")
    _expect(choose_node, _TORCHAO[0])
    choose = arguments(choose_node)
    x = node_argument(quantize, "input")
    _same_x(x, choose)
    _same_qparams(pair, dequantize, "scale", "zero_point")
    _check_blocks(x, choose["block_size"], quantize["block_size"], dequantize["block_size"])
    mapping = str(choose["mapping_type"])
    if mapping not in _MAPPINGS:
        raise Unsupported(f"activation mapping {mapping}; offered {', '.join(_MAPPINGS)}")
    dtypes = {choose["target_dtype"], quantize["output_dtype"], dequantize["input_dtype"]}
    if dtypes != {torch.int8}:
        raise Unsupported(f"activation codes of {', '.join(sorted(map(str, dtypes)))}; offered torch.int8")
    ranges = {_range(part) for part in (choose, quantize, dequantize)}
    if len(ranges) > 1:
        raise Unsupported(f"activation code ranges differ along the chain ({sorted(ranges)})")
    qmin, qmax = ranges.pop()
    if not qmin < qmax:
        raise Unsupported(f"activation code range [{qmin}, {qmax}] is empty")
    _check_rounded_once(node, x, pair[0], dequantize["output_dtype"])
    eps = choose["eps"]
    floor = torch.finfo(tensor_of(x).dtype).smallest_normal if eps is None else eps
    return Activation(
        x=x,
        mapping=_MAPPINGS[mapping],
        rounding=0,
        qmin=qmin,
        qmax=qmax,
        eps=_check_eps(floor),
        zero_point_dtype=_zero_point_dtype(pair[1]),
        nodes=(choose_node, *pair, quantize_node, node),
    )


def _read_per_token(node: Node) -> Activation:
    dequantize = arguments(node)
    quantize_node = node_argument(dequantize, "input")
    _expect(quantize_node, _PER_TOKEN_QUANTIZE)
    quantize = arguments(quantize_node)
    choose_node, pair = _qparams(quantize, "scales", "zero_points")
    _expect(choose_node, *_PER_TOKEN_CHOOSE)
    mapping, rounding, eps = _PER_TOKEN_CHOOSE[op_name(choose_node)]
    x = node_argument(quantize, "input")
    _same_x(x, arguments(choose_node))
    _same_qparams(pair, dequantize, "scales", "zero_points")
    static_dim(x, -1)
    dtypes = {arguments(choose_node)["dtype"], quantize["dtype"], dequantize["dtype"]}
    if dtypes != {torch.int8}:
        raise Unsupported(f"activation codes of {', '.join(sorted(map(str, dtypes)))}; offered torch.int8")
    qmin, qmax = _range(quantize)
    if (qmin, qmax) != (-128, 127):
        raise Unsupported(f"activation code range [{qmin}, {qmax}] of quantize_per_token; offered [-128, 127]")
    output = dequantize["output_dtype"]
    if output not in (torch.float32, tensor_of(x).dtype):
        raise Unsupported(f"activation {x.name} is {tensor_of(x).dtype} but is dequantized to {output}")
    return Activation(
        x=x,
        mapping=mapping,
        rounding=rounding,
        qmin=qmin,
        qmax=qmax,
        eps=eps,
        zero_point_dtype=_zero_point_dtype(pair[1]),
        nodes=(choose_node, *pair, quantize_node, node),
    )


def _expect(node: Node, *names: str) -> None:
    if op_name(node) not in names:
        raise Unsupported(f"{node.name} is {op_name(node) or node.op}; need {' or '.join(names)}")


def _qparams(values: Mapping[str, object], scale: str, zero_point: str) -> tuple[Node, tuple[Node, Node]]:
    """The choose_qparams node behind a scale and a zero point, and those two as its results 0 and 1."""
    pair = (node_argument(values, scale), node_argument(values, zero_point))
    sources = []
    for index, item in enumerate(pair):
        if op_name(item) != "getitem" or item.args[1] != index:
            raise Unsupported(
                f"activation {scale if index == 0 else zero_point} {item.name} is no result of choose_qparams"
            )
        sources.append(item.args[0])
    if sources[0] is not sources[1] or not isinstance(sources[0], Node):
        raise Unsupported("activation scale and zero point come from different choose_qparams")
    return sources[0], pair


def _same_x(x: Node, choose: Mapping[str, object]) -> None:
    if choose["input"] is not x:
        raise Unsupported(f"qparams are chosen from {choose['input']} but {x.name} is quantized")


def _same_qparams(pair: tuple[Node, Node], values: Mapping[str, object], scale: str, zero_point: str) -> None:
    if values[scale] is not pair[0] or values[zero_point] is not pair[1]:
        raise Unsupported("activation is dequantized with other qparams than it was quantized with")


def _check_blocks(x: Node, *blocks: object) -> None:
    expected = [1] * (tensor_of(x).dim() - 1) + [static_dim(x, -1)]
    for block in blocks:
        if not isinstance(block, (list, tuple)) or list(block) != expected:
            raise Unsupported(f"activation block_size {block}; offered one block per token, {expected}")


def _range(values: Mapping[str, object]) -> tuple[int, int]:
    low, high = values["quant_min"], values["quant_max"]
    low, high = -128 if low is None else low, 127 if high is None else high
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or low != int(low) or high != int(high):
        raise Unsupported(f"activation code range [{low}, {high}]; need integers")
    return int(low), int(high)


def _check_eps(eps: object) -> float:
    if not isinstance(eps, (int, float)) or not eps >= SMALLEST_NORMAL:
        raise Unsupported(
            f"eps {eps} is below the smallest normal float32, {SMALLEST_NORMAL}; devices may flush it to 0"
        )
    return float(eps)


def _zero_point_dtype(node: Node) -> torch.dtype:
    dtype = tensor_of(node).dtype
    if dtype not in _ZERO_POINTS:
        raise Unsupported(f"zero point dtype {dtype}; offered {', '.join(str(d) for d in _ZERO_POINTS)}")
    return dtype


def _check_rounded_once(node: Node, x: Node, scale: Node, output: object) -> None:
    """Half models compute the f32 function of the rounded input; anything else that asks for a rounding is refused."""
    model = tensor_of(x).dtype
    if tensor_of(scale).dtype not in (torch.float32, model):
        raise Unsupported(f"activation {x.name} is {model} but its scale is rounded to {tensor_of(scale).dtype}")
    if output not in (torch.float32, model):
        raise Unsupported(f"activation {x.name} is {model} but {node.name} rounds it to {output}")

"""Refusals that need a graph of their own: unusual operands, quantization arguments and weight tensors."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, dequantize_affine, quantize_affine

from tests.e2e.models import Activations, QuantizedLinear, Weights, per_token
from tests.unit.test_rules import export, refusal
from zeropoint import CompileOptions, Unsupported
from zeropoint.export.preprocess import lower_program
from zeropoint.lowering.graph import node_argument, static_dim, tensor_of

Forward = Callable[["Given", torch.Tensor], torch.Tensor]


class Given(nn.Module):
    """Weight tensors of 8 outputs and 32 inputs, and a forward that is given."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.compute = forward
        self.register_buffer("codes", torch.ones(8, 32, dtype=torch.int8))
        self.register_buffer("scales", torch.rand(8, 2))
        self.register_buffer("whole", torch.rand(8, 32))
        self.register_buffer("zeros", torch.zeros(8, 2, dtype=torch.int8))
        self.register_buffer("bias", torch.rand(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)

    def linear(self, x: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return nn.functional.linear(x, matrix, bias)

    def matrix(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        block = (1, 16)
        return dequantize_affine(self.codes, block, self.scales, self.zeros, torch.int8, -8, 7, output_dtype=dtype)


def per_token_chain(m: Given, x: torch.Tensor, *, low: int = -128, output: torch.dtype = torch.float32) -> torch.Tensor:
    scale, zero = per_token.choose_qparams_per_token_asymmetric(x, torch.int8)
    codes = per_token.quantize_per_token(x, scale, zero, low, 127, torch.int8)
    return per_token.dequantize_per_token(codes, scale, zero, low, 127, torch.int8, output)


def fractional_range(m: Given, x: torch.Tensor) -> torch.Tensor:
    scale, zero = choose_qparams_affine(x, MappingType.ASYMMETRIC, (1, 32), torch.int8, -100.5, 100.5)
    codes = quantize_affine(x, (1, 32), scale, zero, torch.int8, -100.5, 100.5)
    return m.linear(dequantize_affine(codes, (1, 32), scale, zero, torch.int8, -100.5, 100.5), m.matrix())


def without_zero_point(m: Given, x: torch.Tensor) -> torch.Tensor:
    scale, zero = choose_qparams_affine(x, MappingType.SYMMETRIC, (1, 32), torch.int8, -128, 127)
    codes = quantize_affine(x, (1, 32), scale, zero, torch.int8, -128, 127)
    return m.linear(dequantize_affine(codes, (1, 32), scale, None, torch.int8, -128, 127), m.matrix())


def wrong_codes(m: Given, x: torch.Tensor) -> torch.Tensor:
    scale, zero = per_token.choose_qparams_per_token(x, torch.int8)
    codes = per_token.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
    return m.linear(per_token.dequantize_per_token(codes, scale, zero, -128, 127, torch.int16, x.dtype), m.matrix())


def group_weight(m: Given, **changes: torch.Tensor) -> torch.Tensor:
    values = {"codes": m.codes, "scales": m.scales, "zeros": m.zeros} | changes
    return per_token.dequantize_per_channel_group(
        values["codes"], values["scales"], values["zeros"], -8, 7, torch.int8, 16, torch.float32
    )


CASES: list[tuple[Forward, str]] = [
    (
        lambda m, x: m.linear(per_token_chain(m, x, low=-127), m.matrix()),
        r"^activation code range \[-127, 127\] of quant",
    ),
    (
        lambda m, x: m.linear(per_token_chain(m, x, output=torch.float16), m.matrix(torch.float16)),
        r"^activation x is torch\.float32 but is dequantized to torch\.float16$",
    ),
    (fractional_range, r"^activation code range \[-100\.5, 100\.5\]; need integers$"),
    (without_zero_point, r"^activation is dequantized with other qparams than it was quantized with$"),
    (lambda m, x: m.linear(x, m.matrix(), m.bias * x[0, 0]), r"^bias mul is not a constant$"),
    (
        lambda m, x: torch.ops.aten.addmm(m.whole[:1, :8] * 1, x, torch.ops.aten.t(m.matrix())),
        r"^bias mul is not a constant$",
    ),
    (wrong_codes, r"^activation codes of torch\.int16, torch\.int8; offered torch\.int8$"),
]


@pytest.mark.parametrize("index", range(len(CASES)))
def test_refused_forms(index: int) -> None:
    forward, text = CASES[index]
    reason = refusal(Given(forward), torch.randn(4, 32))
    assert re.search(text, reason), reason


def refused_weight(change: Callable[[Given], None], forward: Forward | None = None) -> str:
    module = Given(forward or (lambda m, x: m.linear(x, m.matrix())))
    change(module)
    return refusal(module, torch.randn(4, 32))


def test_refused_weight_tensors() -> None:
    def unsigned(m: Given) -> None:
        m.codes = m.codes.to(torch.uint8)

    def as_unsigned(m: Given, x: torch.Tensor) -> torch.Tensor:
        return m.linear(x, dequantize_affine(m.codes, (1, 16), m.scales, m.zeros, torch.uint8, 0, 15))

    assert refused_weight(unsigned, as_unsigned) == (
        "weight codes codes are torch.uint8 of rank 2; offered int8 [N, K]"
    )

    def integer_scales(m: Given) -> None:
        m.scales = torch.ones(8, 2, dtype=torch.int32)

    assert refused_weight(integer_scales, lambda m, x: m.linear(x, group_weight(m))) == (
        "weight scales scales are torch.int32; offered floating point"
    )

    def one_zero(m: Given) -> None:
        m.zeros = torch.zeros(1, dtype=torch.int32)

    assert refused_weight(one_zero, lambda m, x: m.linear(x, group_weight(m))) == (
        "weight zero points zeros [1] do not match scales [8, 2]"
    )

    def half_bias(m: Given) -> None:
        m.bias = m.bias.double()

    double = refused_weight(
        half_bias, lambda m, x: torch.ops.aten.addmm(m.bias.float(), x, torch.ops.aten.t(m.matrix()))
    )
    assert double in ("bias to is not a constant", "bias _to_copy is not a constant")


def test_rows_of_a_weight_may_share_a_scale() -> None:
    module = Given(lambda m, x: m.linear(x, dequantize_affine(m.codes, (2, 16), m.scales, None, torch.int8, -8, 7)))
    module.scales = torch.rand(4, 2)
    program, constants = lower_program(export(module, torch.randn(4, 32)), CompileOptions())
    scale = program.tensors[program.calls[-1].tensor("w_scale")]
    stored = torch.frombuffer(bytearray(constants[scale.constant]), dtype=torch.float32).reshape(2, 8)
    assert torch.equal(stored, module.scales.repeat_interleave(2, 0).t())


def test_a_matrix_as_bias_is_refused() -> None:
    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.rand(4, 8))
            self.linear = QuantizedLinear(32, Weights(n=8, group_size=16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            block = (1, 16)
            matrix = dequantize_affine(
                self.linear.codes, block, self.linear.scales, self.linear.zeros, torch.int8, -8, 7
            )
            return torch.ops.aten.addmm(self.table, x, torch.ops.aten.t(matrix))

    assert refusal(Matrix(), torch.randn(4, 32)) == "bias table is torch.float32 [4, 8]; need half or float [8]"


def test_reading_a_graph() -> None:
    program = export(QuantizedLinear(32, Weights(n=8, group_size=16)), torch.randn(4, 32), max_sizes={0: 9})
    x = next(node for node in program.graph.nodes if node.name == "x")
    with pytest.raises(Unsupported, match=r"^argument axis is 3; need a tensor$"):
        node_argument({"axis": 3}, "axis")
    with pytest.raises(Unsupported, match=r"^x: dimension 0 is dynamic \(s\d+\); it must be static$"):
        static_dim(x, 0)
    chain = export(Given(lambda m, x: m.linear(Activations()(x), m.matrix())), torch.randn(4, 32))
    choose = next(node for node in chain.graph.nodes if "choose" in node.name)
    with pytest.raises(Unsupported, match=r"^choose_qparams_affine is no tensor \(tuple\)$"):
        tensor_of(choose)


def test_float64_activations_are_refused() -> None:
    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = QuantizedLinear(32, Weights(n=8, group_size=16, form="per_group"), torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    reason = refusal(Double(), torch.randn(4, 32).double())
    assert reason.startswith(("activation dtype torch.float64; offered", "weight scales linear.scales are float64"))

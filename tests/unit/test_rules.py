"""Rules: what each form of a quantized linear becomes, and the text of every refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import Node
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, dequantize_affine, quantize_affine

from tests.e2e.models import Activations, Linears, QuantizedLinear, Weights, per_token
from zeropoint import CompileOptions, Program, Unsupported
from zeropoint.export.matching import group_anchors, match_program
from zeropoint.export.preprocess import lower_program
from zeropoint.kernels.dtypes import DType
from zeropoint.lowering.packing import Layout, unpack_weight

LINEAR = Weights(n=24, group_size=32, bias=True)
Forward = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def export(
    module: nn.Module, *inputs: torch.Tensor, max_sizes: dict[int, int | None] | None = None
) -> torch.export.ExportedProgram:
    dims = {axis: torch.export.Dim(f"d{axis}", min=1, max=size) for axis, size in (max_sizes or {}).items()}
    with torch.no_grad():
        return torch.export.export(module.eval(), inputs, dynamic_shapes=((dims,) if dims else None))


def program_of(
    module: nn.Module, x: torch.Tensor, options: CompileOptions | None = None, **kwargs: dict[int, int | None]
) -> Program:
    return lower_program(export(module, x, **kwargs), options or CompileOptions())[0]


GOLDEN = {
    "int8_zero_point": (Activations(), LINEAR, CompileOptions()),
    "float_zero_point": (Activations(zero_point=torch.float32, eps=1e-7), LINEAR, CompileOptions()),
    "half_compute_image": (
        Activations(zero_point=torch.float32),
        LINEAR,
        CompileOptions(compute_dtype="f16", qparams_storage="image", float_zero_point="compute"),
    ),
    "symmetric_asymmetric_weights": (
        Activations(mapping=MappingType.SYMMETRIC, zero_point=None),
        Weights(n=24, group_size=12, asymmetric=True),
        CompileOptions(),
    ),
    "per_token_8_bit": (Activations(form="per_token"), Weights(n=24, group_size=96, bits=8), CompileOptions()),
    "weight_only": (Activations(form="none"), Weights(n=24, group_size=40), CompileOptions()),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_programs(name: str, golden: Callable[[str, str], None]) -> None:
    activations, weights, options = GOLDEN[name]
    k = 120 if weights.group_size in (12, 40) else 96
    model = Linears(k, activations, (weights,))
    golden(f"linear_{name}", str(program_of(model, torch.randn(2, 3, k), options, max_sizes={1: 50})))


def test_quantization_is_shared_and_equal_constants_are_stored_once() -> None:
    model = Linears(96, Activations(), (LINEAR, LINEAR, Weights(n=40, group_size=32)))
    model.linears[1].load_state_dict(model.linears[0].state_dict())

    class Separately(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(linear(self.inner.activations(x)) for linear in self.inner.linears)

    program, constants = lower_program(export(Separately(), torch.randn(4, 96)), CompileOptions())
    kernels = [call.kernel for call in program.calls]
    assert kernels == ["quantize_rows", *["linear_dq8ca"] * 3]
    assert len(constants) == 5  # w, w_scale of two different weights, one bias


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("group_size", [12, 32, 96])
def test_constants_unpack_to_torchaos_weight(group_size: int, asymmetric: bool, bits: int) -> None:
    weights = Weights(n=24, group_size=group_size, bits=bits, asymmetric=asymmetric)
    linear = QuantizedLinear(96, weights)
    program, constants = lower_program(export(linear, torch.randn(2, 96)), CompileOptions())
    layout = Layout.of(96, group_size)
    slots = {arg.slot: program.tensors[arg.tensor] for arg in program.calls[-1].args}

    def data(slot: str, dtype: type[np.generic], *shape: int) -> np.ndarray:
        return np.frombuffer(constants[slots[slot].constant], dtype)[: int(np.prod(shape))].reshape(shape)

    packed = (layout.packed_length // 32, 24, 16) if bits == 4 else (layout.packed_length // 16, 24, 16)
    codes = unpack_weight(data("w", np.uint8 if bits == 4 else np.int8, *packed), layout, bits=bits)
    parts = layout.group_padded // layout.step
    scales = data("w_scale", np.float32, layout.steps, 24).T[:, ::parts]
    zeros = data("w_zp", np.int32, layout.steps, 24).T[:, ::parts] if asymmetric else np.zeros_like(scales, np.int32)
    assert ("w_zp" in slots) == asymmetric
    groups = (codes.reshape(24, -1, group_size) - zeros[:, :, None]).astype(np.float32) * scales[:, :, None]
    low, high = linear.range
    wanted = dequantize_affine(linear.codes, (1, group_size), linear.scales, linear.zeros, torch.int8, low, high)
    np.testing.assert_array_equal(groups.reshape(24, 96), wanted.numpy())


def test_codes_outside_their_declared_range_are_kept_as_8_bits() -> None:
    linear = QuantizedLinear(32, Weights(n=4, group_size=32))
    linear.codes[1, 1] = 9
    program = program_of(linear, torch.randn(2, 32))
    (weight,) = [arg.tensor for arg in program.calls[-1].args if arg.slot == "w"]
    assert program.tensors[weight].dtype is DType.I8


def test_half_scales_only_where_every_value_survives() -> None:
    options = CompileOptions(compute_dtype="f16")
    for factor, dtype in ((1.0, "f16"), (1e-6, "f32"), (1e9, "f32")):
        linear = QuantizedLinear(32, Weights(n=4, group_size=32))
        linear.scales[2] *= factor
        program = program_of(linear, torch.randn(2, 32), options)
        scale = program.tensors[program.calls[-1].tensor("w_scale")]
        assert scale.dtype.value == dtype


def refusal(
    module: nn.Module, *inputs: torch.Tensor, options: CompileOptions | None = None, **kwargs: dict[int, int | None]
) -> str:
    """The one reason that a linear stays."""
    program = export(module, *inputs, **kwargs)
    reasons = match_program(program, replace(options or CompileOptions(), operators="linear")).reasons
    (reason,) = [reasons[node] for node in reasons if node.name in ("linear", "mm", "addmm", "bmm", "matmul")]
    return reason


class Chain(nn.Module):
    """An 8da4w linear with every argument of its activation chain open to change."""

    def __init__(self, **changes: object) -> None:
        super().__init__()
        self.linear = QuantizedLinear(32, Weights(n=8, group_size=32))
        self.arguments = {
            "mapping": MappingType.ASYMMETRIC,
            "block": (1, 32),
            "low": -128,
            "high": 127,
            "eps": None,
            "scale": None,
            "zero_point": torch.int8,
            "output": torch.float32,
            "codes": torch.int8,
            "second_low": None,
            "other": None,
        } | changes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.arguments
        source = x + 1 if a["other"] == "input" else x
        scale, zero = choose_qparams_affine(
            source, a["mapping"], a["block"], a["codes"], a["low"], a["high"], a["eps"], a["scale"], a["zero_point"]
        )
        low = a["low"] if a["second_low"] is None else a["second_low"]
        if a["other"] == "computed scale":
            scale = scale * 2
        if a["other"] == "two sources":
            zero = choose_qparams_affine(x, a["mapping"], a["block"], torch.int8, -128, 127, 1e-3)[1]
        codes = quantize_affine(x, a["block"], scale, zero, a["codes"], low, a["high"])
        scale = scale * 1 if a["other"] == "scale" else scale
        codes = codes + 0 if a["other"] == "codes" else codes
        whole = dequantize_affine(
            codes, a["block"], scale, zero, a["codes"], a["low"], a["high"], output_dtype=a["output"]
        )
        return self.linear(whole)


CHAINS = [
    ({"block": (4, 32)}, r"^activation block_size \[4, 32\]; offered one block per token, \[1, 32\]$"),
    ({"block": (1, 16)}, r"^activation block_size \[1, 16\]; offered one block per token"),
    (
        {"mapping": MappingType.SYMMETRIC_NO_CLIPPING_ERR},
        r"^activation mapping SYMMETRIC_NO_CLIPPING_ERR; offered ASYMM",
    ),
    (
        {"codes": torch.uint8, "low": 0, "high": 255, "zero_point": torch.int32},
        r"^activation codes of torch.uint8; offered torch.int8",
    ),
    ({"second_low": -127}, r"^activation code ranges differ along the chain \(\[\(-128, 127\), \(-127, 127\)\]\)"),
    ({"low": 5, "high": 5, "zero_point": torch.float32}, r"^activation code range \[5, 5\] is empty"),
    ({"eps": 1e-39}, r"^eps 1e-39 is below the smallest normal float32, 1\.17"),
    ({"scale": torch.bfloat16}, r"^activation x is torch.float32 but its scale is rounded to torch.bfloat16"),
    ({"output": torch.float16}, r"^activation x is torch.float32 but dequantize_affine rounds it to torch.float16"),
    (
        {"zero_point": torch.int16},
        r"^zero point dtype torch.int16; offered torch.int8, torch.int32, torch.int64, torch.float32",
    ),
    ({"other": "input"}, r"^qparams are chosen from add but x is quantized"),
    ({"other": "scale"}, r"^activation is dequantized with other qparams than it was quantized with"),
    ({"other": "codes"}, r"^add is aten\.add\.Tensor; need torchao\.quantize_affine\.default"),
    ({"other": "computed scale"}, r"^activation scale mul is no result of choose_qparams"),
    ({"other": "two sources"}, r"^activation scale and zero point come from different choose_qparams"),
]


@pytest.mark.parametrize(("changes", "text"), CHAINS, ids=[str(list(changes)) for changes, _ in CHAINS])
def test_refused_activations(changes: dict[str, object], text: str) -> None:
    reason = refusal(Chain(**changes), torch.randn(4, 32))
    assert re.search(text, reason), reason


class Open(nn.Module):
    """A quantized linear whose forward is given."""

    def __init__(self, forward: Forward, weights: Weights = LINEAR, k: int = 32) -> None:
        super().__init__()
        self.linear = QuantizedLinear(k, weights)
        self.matrix = nn.Parameter(torch.randn(8, 32))
        self.register_buffer("columns", torch.rand(32))
        self.compute = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)


def dequantized(m: nn.Module, **changes: object) -> torch.Tensor:
    low, high = m.linear.range
    values = {"codes": m.linear.codes, "block": (1, 32), "scales": m.linear.scales, "zeros": m.linear.zeros} | changes
    return dequantize_affine(values["codes"], values["block"], values["scales"], values["zeros"], torch.int8, low, high)


def decomposed(name: str) -> Forward:
    """aten operators that the edge dialect leaves, with a twist."""

    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        w, aten = dequantized(m), torch.ops.aten
        if name == "beta":
            return aten.addmm(m.linear.bias, x, aten.permute(w, [1, 0]), beta=2)
        if name == "run-time bias":
            return aten.addmm(x[0, :24], x, aten.t(w))
        if name == "not transposed":
            return aten.mm(x[:, :24], w)
        if name == "permuted to itself":
            return aten.mm(x[:, :24], aten.permute(w, [0, 1]))
        if name == "transposed onto itself":
            return aten.mm(x[:, :24], aten.transpose(w, 1, 1))
        if name == "two-dimensional bias":
            return aten.addmm(m.matrix[:4, :24], x, aten.t(w))
        raise AssertionError(name)

    return forward


WEIGHTS = [
    (
        lambda m, x: nn.functional.linear(x, m.matrix),
        r"^weight p_matrix is not quantized \(placeholder\); offered torchao\.",
    ),
    (
        lambda m, x: nn.functional.linear(x, dequantized(m, codes=m.linear.codes + 1)),
        r"^weight input add is not a constant",
    ),
    (
        lambda m, x: nn.functional.linear(x, dequantized(m, scales=m.linear.scales * x[0, 0])),
        r"^weight scale mul is not a constant",
    ),
    (decomposed("beta"), r"^addmm with beta 2, alpha 1; offered 1, 1"),
    (decomposed("run-time bias"), r"^bias select|^bias slice.* is not a constant"),
    (
        decomposed("not transposed"),
        r"^weight dequantize_affine is torchao\.dequantize_affine\.default; need a transposed",
    ),
    (decomposed("permuted to itself"), r"^weight permute is permuted by \[0, 1\]; need \[1, 0\]"),
    (decomposed("transposed onto itself"), r"^weight transpose transposes axes \[1, 1\]; need 0 and 1"),
    (
        lambda m, x: nn.functional.linear(
            x, per_token.dequantize_per_channel(m.linear.codes, m.matrix[0].detach() * 1, None, 1, -8, 7, torch.int8)
        ),
        r"^weight scales mul is not a constant",
    ),
    (
        lambda m, x: nn.functional.linear(
            x, per_token.dequantize_per_channel(m.linear.codes, m.columns, None, 1, -8, 7, torch.int8)
        ),
        r"^weight is quantized per channel of axis 1; offered axis 0, the outputs",
    ),
]


@pytest.mark.parametrize("index", range(len(WEIGHTS)))
def test_refused_operands(index: int) -> None:
    forward, text = WEIGHTS[index]
    reason = refusal(Open(forward), torch.randn(4, 32))
    assert re.search(text, reason), reason


def test_refused_weight_data() -> None:
    def with_data(change: Callable[[QuantizedLinear], None], weights: Weights = LINEAR) -> str:
        linear = QuantizedLinear(32, weights)
        change(linear)
        return refusal(linear, torch.randn(4, 32))

    def fraction(m: QuantizedLinear) -> None:
        m.zeros = m.zeros.float() + 0.5

    def no_number(m: QuantizedLinear) -> None:
        m.zeros = m.zeros.float() * float("nan")

    def infinite(m: QuantizedLinear) -> None:
        m.scales[0] = float("inf")

    def double(m: QuantizedLinear) -> None:
        m.scales = m.scales.double() + 1e-12

    def large(m: QuantizedLinear) -> None:
        m.zeros = torch.full_like(m.zeros, 300, dtype=torch.int32)

    four = with_data(fraction, Weights(n=8, group_size=4))
    assert "are not all integers, in groups of 4; offered groups of a multiple of 8" in four
    assert "zeros are not all finite" in with_data(no_number)
    assert "are not all finite" in with_data(infinite)
    assert "are not all integers within [-255, 255]" in with_data(large)
    per_group = Weights(n=8, group_size=32, form="per_group", zero_point=torch.int32)
    assert "are float64 and not all exact in float32" in with_data(double, per_group)
    wrapping = Weights(n=8, group_size=32, bits=8, asymmetric=True, form="per_group", zero_point=torch.int8)
    assert "lets int8 differences wrap around" in with_data(lambda m: None, wrapping)


def test_shapes_that_cannot_be_planned_are_refused() -> None:
    linear = QuantizedLinear(32, LINEAR)
    unbounded = refusal(linear, torch.randn(4, 32), max_sizes={0: None})
    assert unbounded.startswith("dynamic dimension s")
    assert unbounded.endswith(" has no upper bound; give it one: torch.export.Dim(name, max=...)")
    limit = CompileOptions(max_binding_bytes=1 << 20)
    assert "max_binding_bytes 1048576; lower the maximum" in refusal(
        linear, torch.randn(4, 32), max_sizes={0: 10_000}, options=limit
    )
    assert "one output column takes" in refusal(
        Open(lambda m, x: m.linear(x)), torch.randn(4, 32), max_sizes={0: 1_000_000}, options=limit
    )


def names(nodes: object) -> list[str]:
    assert isinstance(nodes, list)
    return [node.name for node in nodes if isinstance(node, Node)]


def test_an_output_in_pieces_is_joined_where_one_binding_holds_it() -> None:
    """Otherwise no delegated linear of the same program reads it."""
    options = CompileOptions(max_binding_bytes=1 << 20)
    model = nn.Sequential(
        QuantizedLinear(4096, Weights(n=640, group_size=128)), QuantizedLinear(640, Weights(n=4, group_size=32))
    )
    program = export(model, torch.randn(4, 4096))
    lowered, _ = lower_program(program, options)
    copies = [call for call in lowered.calls if call.kernel == "strided_copy"]
    assert len(copies) == len({call.tensor("x") for call in copies}) == 2
    assert [names(group) for group in group_anchors(program, match_program(program, options))] == [
        ["linear", "linear_1"]
    ]
    large = Open(lambda m, x: m.linear(x).amax(-1), Weights(n=640, group_size=32), 64)
    program = export(large, torch.randn(410, 64))
    with pytest.raises(
        Unsupported, match=r"amax: accepted by the partitioner.* its input linear, 2 column pieces: 10496"
    ):
        lower_program(program, options)
    matching = match_program(program, options)
    assert [names(group) for group in group_anchors(program, matching)] == [["linear"], ["amax"]]

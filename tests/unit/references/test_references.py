"""The references equal torchao and torch bit for bit: they are what every kernel is compared with."""

from __future__ import annotations

import pytest
import torch
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

from tests.op.rows import quantization_rows
from zeropoint.errors import ZeropointError
from zeropoint.lowering.packing import Layout, pack_weight
from zeropoint.references import OutputSpec, Result, find_reference
from zeropoint.references.linear_dq8ca import tolerance

EPS_F32 = torch.finfo(torch.float32).eps
TORCH_ZERO_POINTS = [torch.int8, torch.int32, torch.float32, torch.float16]


def choose(x: torch.Tensor, mapping: int, eps: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    rows = x.shape[:-1]
    outputs = {"scale": OutputSpec(rows, torch.float32), "zp": OutputSpec(rows, dtype)}
    attrs = {"mapping": mapping, "qmin": -128, "qmax": 127, "eps": eps}
    result = find_reference("choose_qparams_per_row")({"x": x}, attrs, outputs)
    return result["scale"], result["zp"]


def quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, rounding: int) -> torch.Tensor:
    length = x.shape[-1]
    attrs = {"rounding": rounding, "qmin": -128, "qmax": 127, "group_size": length, "group_padded": length, "step": 8}
    outputs = {"q": OutputSpec(x.shape, torch.int8)}
    inputs = {"x": x, "scale": scale, "zp": zero_point}
    return find_reference("quantize_and_pack")(inputs, attrs, outputs)["q"]


@pytest.mark.parametrize("zero_point_dtype", TORCH_ZERO_POINTS, ids=str)
@pytest.mark.parametrize(
    ("mapping", "eps"),
    [(MappingType.ASYMMETRIC, None), (MappingType.ASYMMETRIC, EPS_F32), (MappingType.SYMMETRIC, None)],
    ids=["asymmetric", "asymmetric-eps", "symmetric"],
)
def test_torchao(mapping: MappingType, eps: float | None, zero_point_dtype: torch.dtype) -> None:
    x = quantization_rows(96)
    block = [1, x.shape[-1]]
    scale, zero_point = choose_qparams_affine(x, mapping, block, torch.int8, -128, 127, eps, None, zero_point_dtype)
    smallest = torch.finfo(torch.float32).smallest_normal if eps is None else eps
    our_scale, our_zero_point = choose(x, int(mapping is MappingType.SYMMETRIC), smallest, zero_point_dtype)
    assert torch.equal(our_scale, scale)
    assert our_zero_point.dtype == zero_point_dtype
    assert torch.equal(our_zero_point, zero_point)
    q = quantize_affine(x, block, scale, zero_point, torch.int8, -128, 127)
    assert torch.equal(quantize(x, our_scale, our_zero_point, 0), q)


def test_quantized_decomposed_asymmetric() -> None:
    x = quantization_rows(96)
    ops = torch.ops.quantized_decomposed
    scale, zero_point = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
    our_scale, our_zero_point = choose(x, 2, torch.finfo(torch.float32).eps, torch.int32)
    assert torch.equal(our_scale.double(), scale.squeeze(-1))
    assert torch.equal(our_zero_point.long(), zero_point.squeeze(-1))
    q = ops.quantize_per_token(x, scale, zero_point, -128, 127, torch.int8)
    assert torch.equal(quantize(x, our_scale, our_zero_point, 1), q)


def test_quantized_decomposed_symmetric() -> None:
    x = quantization_rows(96)
    ops = torch.ops.quantized_decomposed
    scale, zero_point = ops.choose_qparams_per_token(x, torch.int8)
    our_scale, our_zero_point = choose(x, 3, 1e-5, torch.float32)
    assert torch.equal(our_scale, scale.squeeze(-1))
    assert torch.equal(our_zero_point, zero_point.squeeze(-1))
    q = ops.quantize_per_token(x, scale, zero_point, -128, 127, torch.int8)
    assert torch.equal(quantize(x, our_scale, our_zero_point, 2), q)


def test_unknown_kernel() -> None:
    with pytest.raises(ZeropointError, match=r"references: no module for kernel nope; add backend/references/nope\.py"):
        find_reference("nope")


@pytest.mark.parametrize(("length", "step"), [(64, 64), (128, 128), (256, 128)])
def test_the_bound_of_a_linear_is_one_that_eager_misses(length: int, step: int) -> None:
    """In float32, where sums over a step cancel: by sums over 32 positions it is no wider than eager's error."""
    generator = torch.Generator().manual_seed(0)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)

    q, codes, zero_points = integers(256, length), integers(512, length), integers(256)
    scale, w_scale = torch.rand(256, generator=generator), torch.rand(length // step, 512, generator=generator)
    w = torch.from_numpy(pack_weight(codes.numpy(), Layout.of(length, step), bits=8))
    inputs = {"q": q, "scale": scale, "zp": zero_points, "w": w, "w_scale": w_scale}
    wanted = find_reference("linear_dq8ca")(inputs, {"step": step}, {"y": OutputSpec((256, 512), torch.float64)})["y"]
    bound = tolerance(Result("linear_dq8ca", "y", inputs, {"step": step}, wanted))
    weight = codes.float() * w_scale.T.repeat_interleave(step, 1)
    eager = ((q.float() - zero_points.float().unsqueeze(1)) * scale.unsqueeze(1)) @ weight.T
    assert bool(((eager.double() - wanted).abs() > bound).any())

"""Weights with fractional zero points, and ExecuTorch's tensors of GGUF blocks, by the documented call."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from executorch.extension.llm.export.gguf import ExportableGGUFTensor
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor

import zeropoint
from tests.e2e.running import Direct, Method, compare, export, lower, relative_rms, rows_of

pytestmark = pytest.mark.usefixtures("validated")
K, N = 256, 48
BLOCKS = {"q4_k": (144, (0, 2)), "q5_k": (176, (0, 2)), "q6_k": (210, (208,))}  # bytes, and where halves lie
DYNAMIC = "int8_asym_per_token"


def blocks(kind: str, seed: int = 0) -> torch.Tensor:
    """uint8 [N, bytes of a block]: random codes, and scales of usual size."""
    size, halves = BLOCKS[kind]
    generator = np.random.default_rng(seed)
    raw = generator.integers(0, 256, (N, size), dtype=np.uint8)
    for at in halves:
        values = np.abs(generator.standard_normal((N, 1))) * 0.01 + 1e-3
        raw[:, at : at + 2] = values.astype(np.float16).view(np.uint8)
    return torch.from_numpy(raw)


def with_weight(weight: torch.Tensor) -> nn.Module:
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight = nn.Parameter(weight, requires_grad=False)
    return model.eval()


def intx(
    scale: torch.Tensor, zero: torch.Tensor, *, group_size: int = 32, bits: int = 4, dynamic: bool = True
) -> IntxUnpackedToInt8Tensor:
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (scale.shape[0], scale.shape[1] * group_size), dtype=torch.int8)
    return IntxUnpackedToInt8Tensor(
        codes, scale, zero, getattr(torch, f"int{bits}"), (1, group_size), torch.float32, DYNAMIC if dynamic else None
    )


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("way", ["weights alone", "dynamic", "raw"])
def test_executorch_gguf_tensor(kind: str, way: str) -> None:
    tensor = ExportableGGUFTensor.from_raw(blocks(kind), kind)
    if way == "raw":
        weight = tensor.to(torch.float32)
    else:
        weight = tensor.to_intx_unpacked_to_int8_tensor(scale_dtype=torch.float32)
        weight.activation_quantization = DYNAMIC if way == "dynamic" else None
    model = with_weight(weight)
    run = Method(lower(export(model, rows_of(K, 4), max_sizes={0: 16}))[0])
    for rows in (1, 5):
        x = rows_of(K, rows, seed=rows)
        assert relative_rms(run(x)[0], model(x)) <= 1e-6


@pytest.mark.parametrize(("group_size", "bits"), [(8, 4), (24, 4), (40, 8), (192, 4), (1024, 8)])
@pytest.mark.parametrize("dynamic", [True, False])
def test_every_group(group_size: int, bits: int, dynamic: bool) -> None:
    groups = 3 if group_size < 1000 else 1
    scale, zero = torch.rand(17, groups) * 0.02 + 0.001, torch.randn(17, groups) * 2**bits
    model = with_weight(intx(scale, zero, group_size=group_size, bits=bits, dynamic=dynamic))
    run = Direct(export(model, rows_of(groups * group_size, 4), max_sizes={0: 16}))
    compare(run, model, [rows_of(groups * group_size, rows) for rows in (1, 3, 16)], tolerance=1e-6)
    (weight_zero,) = [tensor for tensor in run.program.tensors if "w_zp" in tensor.name]
    assert weight_zero.dtype.value == "f32"


def test_float_zeros_that_are_integers_stay_integers() -> None:
    scale, zero = torch.rand(9, 2) * 0.02 + 0.001, torch.randint(-8, 8, (9, 2)).float()
    model = with_weight(intx(scale, zero))
    run = Direct(export(model, rows_of(64, 4)))
    compare(run, model, [rows_of(64, 4)], tolerance=1e-6)
    (weight_zero,) = [tensor for tensor in run.program.tensors if "w_zp" in tensor.name]
    assert weight_zero.dtype.value == "i32"


@pytest.mark.parametrize(
    ("group_size", "value", "text"),
    [
        (12, 0.5, r"not all integers, in groups of 12; offered groups of a multiple of 8"),
        (32, float("nan"), r"are not all finite"),
    ],
)
def test_what_stays_outside(group_size: int, value: float, text: str) -> None:
    zero = torch.full((5, 2), value)
    model = with_weight(intx(torch.ones(5, 2), zero, group_size=group_size))
    found = str(zeropoint.explain(export(model, rows_of(2 * group_size, 4))))
    assert re.search(text, found), found

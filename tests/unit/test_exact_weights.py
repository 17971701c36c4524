"""A term comes back from its zero point exactly, and a group without a scale keeps its weights."""

from __future__ import annotations

import torch
from torch import nn

from tests.e2e.running import export
from zeropoint.export.preprocess import lower_program
from zeropoint.lowering.options import CompileOptions
from zeropoint.quantization.exact_weights import exact_weight


def halves(*shape: int) -> torch.Tensor:
    return torch.randn(shape).half().float()


def test_terms_come_back_exactly() -> None:
    """As the Program has them; zero points in float32 would lose a place in many."""
    codes, scales, terms = torch.randint(-8, 8, (64, 128), dtype=torch.int8), halves(64, 4), halves(64, 4)
    model = nn.Linear(128, 64, bias=False)
    weight = exact_weight(codes, scales, terms, bits=4, dynamic=True)
    model.weight = nn.Parameter(weight, requires_grad=False)
    program, constants = lower_program(export(model, torch.randn(2, 128)), CompileOptions())
    (call,) = [call for call in program.calls if call.kernel == "linear_dq8ca"]
    data = bytearray(constants[program.tensors[call.tensor("w_zp")].constant])
    found = torch.frombuffer(data, dtype=torch.float32)[: terms.numel()].reshape(4, 64).T
    assert torch.equal(found, terms)
    rounded = (scales.double() * (terms.double() / scales.double()).float().double()).float()
    assert not torch.equal(rounded, terms)


def test_a_group_whose_scale_is_zero() -> None:
    codes, scales, terms = torch.full((2, 64), 3, dtype=torch.int8), torch.zeros(2, 2), torch.zeros(2, 2)
    terms[0, 1] = 0.25
    weight = exact_weight(codes, scales, terms, bits=4, dynamic=False)
    wanted = torch.zeros(2, 64)
    wanted[0, 32:] = -0.25
    assert torch.equal(weight.dequantize(), wanted)


def test_a_symmetric_weight_has_integer_zeros() -> None:
    weight = exact_weight(torch.ones(2, 32, dtype=torch.int8), torch.ones(2, 1), None, bits=8, dynamic=True)
    assert weight.zero_point.dtype is torch.int8
    assert not bool(weight.zero_point.any())

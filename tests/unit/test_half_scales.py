"""Scales of weights in float16: what moves, what stays, and what a Program then holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor

import zeropoint
from tests.unit.rules.lowered import lower_and_compare
from zeropoint import half_weight_scales, quantize


def two_linears() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48, bias=False), nn.Linear(48, 16)).eval()


@pytest.mark.parametrize("recipe", ["8da4w", "8da8w"])
def test_the_model_computes_with_the_scales_that_are_stored(recipe: str) -> None:
    """The Program is eager PyTorch's function of the rounded model; 16 bits a scale, and no sums."""
    model = quantize(two_linears(), recipe=recipe, group_size=16)
    x = torch.randn(3, 64)
    before, found = model(x), half_weight_scales(model)
    assert found.weights == 2
    assert 0 < found.rms < found.worst <= 2.0**-11
    assert not found.left
    assert 0 < float((model(x) - before).norm() / before.norm()) < 0.02
    result = lower_and_compare(model, (x,))
    for program in result.programs.values():
        linears = [call for call in program.calls if call.kernel == "linear_dq8ca"]
        assert [program.tensors[call.tensor("w_scale")].dtype.value for call in linears] == ["f16", "f16"]
        assert not any(arg.slot == "w_sum" for call in linears for arg in call.args)
    again = half_weight_scales(model)
    assert (again.weights, again.worst, again.rms) == (2, 0.0, 0.0)


def test_what_it_says() -> None:
    model = quantize(two_linears(), group_size=16)
    with torch.no_grad():
        model[1].weight.scale[0, 0] = 1e-6
    found = half_weight_scales(model)
    assert found.left == {"1.weight": "as float16 does not hold some"}
    assert float(model[1].weight.scale[0, 0]) == pytest.approx(1e-6)
    assert str(found).startswith("float16 scales: 1 weights, a scale moved by at most ")
    assert str(found).endswith("; 1 weights keep theirs, as float16 does not hold some (1.weight)")
    with_zeros = quantize(two_linears(), group_size=16, asymmetric_weights=True)
    assert set(half_weight_scales(with_zeros).left.values()) == {"as it has zero points"}
    in_float = quantize(two_linears(), recipe="8da4w-float-zp", group_size=16)
    assert set(half_weight_scales(in_float).left.values()) == {"as its activations have float zero points"}


def test_the_error_of_the_weights() -> None:
    """Against the weights themselves."""
    model = quantize(two_linears(), group_size=16)
    weights = [module.weight.dequantize().double() for module in model]
    found = half_weight_scales(model)
    moved = [module.weight.dequantize().double() - weight for module, weight in zip(model, weights, strict=True)]
    norm = torch.cat([part.flatten() for part in moved]).norm() / torch.cat([part.flatten() for part in weights]).norm()
    assert found.rms == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize(("storage", "recipe"), [("buffer", "8da4w"), ("image", "8da4w"), ("buffer", "8da4w-float-zp")])
def test_sums_are_stored_where_the_kernel_makes_none(storage: str, recipe: str) -> None:
    """Zero points in images or in float, and weights with zero points."""
    options = zeropoint.CompileOptions(qparams_storage=storage)
    for asymmetric in (False, True):
        model = quantize(nn.Sequential(two_linears()[0]), recipe=recipe, group_size=16, asymmetric_weights=asymmetric)
        result = lower_and_compare(model, (torch.randn(3, 64),), options=options)
        for program in result.programs.values():
            (call,) = [call for call in program.calls if call.kernel == "linear_dq8ca"]
            stored = any(arg.slot == "w_sum" for arg in call.args)
            assert stored == (asymmetric or (storage, recipe) != ("buffer", "8da4w"))
            assert program.tensors[call.tensor("w_scale")].dtype.value == "f32"


def test_a_tied_weight_is_rounded_once() -> None:
    table, other = nn.Embedding(8, 32), nn.Embedding(8, 32)
    quantize(nn.ModuleList([table]), embedding="8w", group_size=16)
    assert isinstance(table.weight, IntxUnpackedToInt8Tensor)
    other.weight = table.weight
    assert half_weight_scales(nn.ModuleList([table, other])).weights == 1

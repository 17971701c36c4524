"""Quantized linears from torch.export to executorch.runtime, compared with eager torchao."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, dequantize_affine, quantize_affine

import zeropoint
from tests.e2e.models import Activations, Forms, Linears, QuantizedLinear, Weights
from tests.e2e.running import Method, compare, everything_decomposed, export, lower, relative_rms, rows_of
from tests.e2e.test_linear_matrix import FORMS, KINDS

pytestmark = pytest.mark.usefixtures("validated")


def test_every_activation_form_in_one_program() -> None:
    model = Forms(96, FORMS, Weights(n=37, group_size=32, asymmetric=True, bias=True))
    pte, partitioner = lower(export(model, rows_of(96, 4), max_sizes={0: 200}))
    assert partitioner.reasons == {}
    assert len(zeropoint.inspect(pte).delegates) == 1
    compare(Method(pte), model, [rows_of(96, n) for n in (1, 8, 9, 129)], tolerance=1e-6)


def test_every_weight_kind_in_one_program() -> None:
    model = Linears(96, Activations(), KINDS)
    pte, partitioner = lower(export(model, rows_of(96, 4), max_sizes={0: 64}))
    assert partitioner.reasons == {}
    compare(Method(pte), model, [rows_of(96, n) for n in (1, 40)], tolerance=1e-6)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("lead", "bias"), [((), True), ((1,), False), ((6,), True), ((2, 3), False), ((2, 2, 3), True)]
)
def test_ranks_static(lead: tuple[int, ...], bias: bool, whole: bool) -> None:
    model = Linears(64, Activations(), (Weights(n=24, group_size=32, bias=bias),))
    x = rows_of(64, 18)[: max(1, int(torch.Size(lead).numel()))].reshape(*lead, 64)
    with nullcontext() if whole else everything_decomposed():
        pte, _ = lower(export(model, x))
    assert len(zeropoint.inspect(pte).delegates) == 1
    compare(Method(pte), model, [x], tolerance=1e-6)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("dynamic", [(1,), (0, 1)])
def test_batches_of_dynamic_length(dynamic: tuple[int, ...], whole: bool) -> None:
    model = Linears(64, Activations(zero_point=torch.float32), (Weights(n=24, group_size=32, bias=True),))
    program = export(model, rows_of(64, 6).reshape(2, 3, 64), max_sizes=dict.fromkeys(dynamic, 40))
    with nullcontext() if whole else everything_decomposed():
        pte, _ = lower(program)
    batches = [(2, 1), (2, 3), (2, 40)] + ([(1, 1), (7, 5)] if 0 in dynamic else [])
    inputs = [rows_of(64, b * s).reshape(b, s, 64) for b, s in batches]
    compare(Method(pte), model, inputs, tolerance=1e-6)


@pytest.mark.parametrize("storage", ["buffer", "image"])
def test_half_compute_of_a_float_model(storage: str) -> None:
    options = zeropoint.CompileOptions(compute_dtype="f16", qparams_storage=storage)
    model = Linears(96, Activations(zero_point=torch.float32), KINDS[1:7:2])
    pte, _ = lower(export(model, rows_of(96, 4), max_sizes={0: 64}), options)
    compare(Method(pte), model, [rows_of(96, n).half().float() for n in (1, 9)], tolerance=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zero_point", [torch.int8, torch.float32])
def test_half_models(dtype: torch.dtype, zero_point: torch.dtype) -> None:
    eps = float(torch.finfo(dtype).smallest_normal)
    activations = Activations(zero_point=zero_point, eps=eps)
    weights = tuple(Weights(n=40, group_size=32, bits=bits, asymmetric=bits == 4, bias=bits == 8) for bits in (4, 8))
    model = Linears(1024, activations, weights, dtype)
    pte, partitioner = lower(export(model, rows_of(1024, 4, dtype), max_sizes={0: 64}))
    assert partitioner.reasons == {}
    method = Method(pte)
    in_float = Linears(1024, activations, weights, dtype).float()
    for n_rows in (1, 9, 40):
        x = rows_of(1024, n_rows, dtype)
        for actual, eager, exact in zip(method(x), model(x), in_float(x.float()), strict=True):
            assert actual.dtype is dtype
            assert relative_rms(actual, eager) <= (5e-3 if dtype is torch.float16 else 1e-2)
            assert relative_rms(actual, exact.to(dtype)) <= 1e-3


def test_large_outputs_are_computed_in_column_pieces() -> None:
    model = Linears(64, Activations(), (Weights(n=1000, group_size=32, bias=True), Weights(n=40, group_size=32)))
    pte, _ = lower(
        export(model, rows_of(64, 4), max_sizes={0: 512}), zeropoint.CompileOptions(max_binding_bytes=1 << 20)
    )
    (found,) = zeropoint.inspect(pte).programs
    assert [len(output.tensors) for output in found.outputs] == [2, 1]
    assert max(tensor.size_bytes for tensor in found.tensors) <= 1 << 20
    compare(Method(pte), model, [rows_of(64, n) for n in (1, 9, 512)], tolerance=1e-6)


class Read(nn.Module):
    """A linear whose weight does not fit one binding, and what reads its output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = QuantizedLinear(4096, Weights(n=640, group_size=128))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.linear(x)
        return y, torch.tanh(y / 100), y.cumsum(-1)


def test_column_pieces_are_joined_for_what_reads_them() -> None:
    model = Read().eval()
    pte, partitioner = lower(
        export(model, rows_of(4096, 4), max_sizes={0: 16}), zeropoint.CompileOptions(max_binding_bytes=1 << 20)
    )
    assert partitioner.reasons == {}
    (found,) = zeropoint.inspect(pte).programs
    assert [len(output.tensors) for output in found.outputs] == [2, 1, 1]
    compare(Method(pte), model, [rows_of(4096, n) for n in (1, 3, 16)], tolerance=1e-6)


@pytest.mark.parametrize(("recipe", "group_size"), [("8da4w", 32), ("8da4w-float-zp", 16), ("8da8w", None), ("4w", 48)])
def test_recipes_of_quantize(recipe: str, group_size: int | None) -> None:
    torch.manual_seed(0)
    model = zeropoint.quantize(nn.Sequential(nn.Linear(96, 37), nn.Tanh()), recipe=recipe, group_size=group_size)
    pte, _ = lower(export(model, rows_of(96, 4), max_sizes={0: 64}))
    assert len(zeropoint.inspect(pte).delegates) == 1
    compare(Method(pte), model, [rows_of(96, n) for n in (1, 40)], tolerance=1e-6)


class Learned(nn.Module):
    """Linears of learned queries and latents: what the model holds and no input gives, in every shape."""

    def __init__(self, weights: Weights, activations: Activations) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        shapes = {"row": (64,), "rows": (6, 64), "batch": (1, 6, 64), "heads": (2, 1, 3, 64)}
        tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        self.learned = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in tensors.items()})
        self.register_buffer("buffer", torch.randn(5, 64, generator=generator))
        self.register_buffer("state", torch.zeros(2, 64))
        self.linear = Linears(64, activations, (weights,))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.state.add_(1.0)
        row, rows, batch, heads = (self.learned[name] for name in ("row", "rows", "batch", "heads"))
        sources = (row, rows, batch, heads, self.buffer, self.buffer[1:4], batch[0], batch[:, :3], rows[2], self.state)
        sources += (rows[:5] + self.buffer, batch.expand(x.shape[0], -1, -1), rows.t().t(), batch.squeeze(0) * 2)
        return *(self.linear(source)[0] for source in sources), x + row


@pytest.mark.parametrize(
    ("form", "whole"), [("affine", True), pytest.param("affine", False, marks=pytest.mark.slow), ("none", True)]
)
def test_learned_queries(form: str, whole: bool) -> None:
    model = Learned(Weights(n=24, group_size=32, bias=True), Activations(form=form))
    with nullcontext() if whole else everything_decomposed():
        pte, partitioner = lower(export(model, rows_of(64, 3)))
    assert partitioner.reasons == {}
    assert len(zeropoint.inspect(pte).delegates) == 1
    model.state.zero_()
    compare(Method(pte), model, [rows_of(64, 3, seed=seed) for seed in (0, 1)], tolerance=1e-6)


class PerTensor(nn.Module):
    """An activation quantized per tensor, which no rule takes, beside one that the rules take."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = Linears(64, Activations(form="none"), (Weights(n=24, group_size=16, bias=True),))
        self.taken = Linears(64, Activations(mapping=MappingType.SYMMETRIC), (Weights(n=24, group_size=16),))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block = list(x.shape)
        scale, zero_point = choose_qparams_affine(x, MappingType.ASYMMETRIC, block, torch.int8, -128, 127)
        codes = quantize_affine(x, block, scale, zero_point, torch.int8, -128, 127)
        whole = dequantize_affine(codes, block, scale, zero_point, torch.int8, -128, 127)
        return self.refused(whole)[0] + self.taken(x)[0]


def test_what_no_rule_takes_is_an_error_that_names_the_pass() -> None:
    program = export(PerTensor(), rows_of(64, 3))
    with pytest.raises(
        zeropoint.Unsupported,
        match=r"choose_qparams_affine_default: torchao\.choose_qparams_affine\.default stays outside the delegate .*"
        r"block_size \[3, 64\]; offered one block per token, \[1, 64\].* call zeropoint\.decompose_unsupported",
    ):
        lower(program)


def test_what_no_rule_takes_runs_after_the_pass() -> None:
    model = PerTensor()
    pte, _ = lower(zeropoint.decompose_unsupported(export(model, rows_of(64, 3))))
    kernels = {call.kernel for item in zeropoint.inspect(pte).programs for call in item.calls}
    assert kernels >= {"linear_qgsw", "linear_dq8ca", "quantize_rows"}
    compare(Method(pte), model, [rows_of(64, 3)], tolerance=1e-6)

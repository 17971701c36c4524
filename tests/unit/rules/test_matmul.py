"""Float products against eager PyTorch, and those that are cut into columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from tests.unit.rules.general import check, refusals
from zeropoint import CompileOptions
from zeropoint.lowering.options import MIB

SMALL = CompileOptions(max_binding_bytes=MIB)


def test_matrices() -> None:
    def forward(x: Tensor, y: Tensor, w: Tensor) -> list[Tensor]:
        return [x @ y, functional.linear(x, w), functional.linear(x, w, w[:, 0]), torch.mm(x, w.t()), x.t() @ x,
                y.t() @ x.t(), torch.addmm(w[:, 0], x, w.t()), torch.addmm(x[:, :1], x, w.t()), torch.addmm(x[:, :6],
                x, w.t()), torch.addmm(w[:, 0], x, w.t(), beta=0.5, alpha=2.0), torch.addmm(w[:, 0], x, w.t(), beta=0),
                torch.addmm(x[:, 0] * 0 + 1, x[:, :3], w[:3].t()[:3], alpha=3.0), x[:, 1:5] @ y[1:5]]  # fmt: skip

    check(forward, torch.randn(3, 8), torch.randn(8, 5), torch.randn(6, 8))


def test_vectors() -> None:
    check(lambda x, v: (x @ v, v @ x.t(), v @ v, functional.linear(v, x)), torch.randn(3, 8), torch.randn(8))


def test_batches() -> None:
    def forward(x: Tensor, y: Tensor) -> list[Tensor]:
        return [x @ y.transpose(-1, -2), x @ y[:1].transpose(-1, -2), x @ y[0, 0].t(), x[0, 0] @ y.transpose(-1, -2),
                torch.bmm(x[0], y[1].transpose(1, 2)), torch.baddbmm(x[0, :, :, :5], x[0], y[0].transpose(1, 2),
                beta=0.5), x.transpose(1, 2) @ y.transpose(1, 2).transpose(-1, -2)[:, :4], x[:, :1] @ y.transpose(-1,
                -2), (x.transpose(0, 2) @ y[0, 0].t()), functional.linear(x.transpose(1, 2), y[0, 0])]  # fmt: skip

    check(forward, torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8))


def test_heads_need_no_copy() -> None:
    def forward(q: Tensor, k: Tensor) -> Tensor:
        q, k = (item.view(2, 4, 3, 8).transpose(1, 2) for item in (q, k))
        return q @ k.transpose(-1, -2)

    assert check(forward, torch.randn(2, 4, 24), torch.randn(2, 4, 24), dialects=("aten",)).kernels() == ["matmul"]


def test_more_batches_than_the_kernel_has() -> None:
    x, y = torch.randn(2, 3, 2, 4, 5), torch.randn(2, 1, 2, 5, 3)
    check(lambda x, y: (x @ y, x.permute(2, 1, 0, 3, 4) @ y.permute(2, 1, 0, 3, 4)), x, y)


def test_halves() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(3, 8).half(), torch.randn(6, 8).half()
    result = check(lambda x, w: functional.linear(x, w, w[:, 0]).float() * 0.125, x, w, half=False)
    assert result.kernels()[-2:] == ["strided_copy", "elementwise_unary"]


def test_dynamic_sizes() -> None:
    batch, length = Dim("batch", min=1, max=4), Dim("length", min=1, max=9)

    def forward(x: Tensor, w: Tensor) -> list[Tensor]:
        return [x @ w, functional.linear(x, w.t()), x @ x.transpose(1, 2), x.transpose(0, 1) @ w, x.transpose(1, 2) @ x]

    check(
        forward, torch.randn(2, 5, 6), torch.randn(6, 7), dynamic_shapes=({0: batch, 1: length}, None),
        calls=[(torch.randn(b, n, 6), torch.randn(6, 7)) for b, n in ((1, 2), (4, 9), (2, 1))],
    )  # fmt: skip


class Head(nn.Module):
    """A weight larger than a binding, as linear has it and as GPT-2 has it."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        shape = (64, 5000) if transposed else (5000, 64)
        self.weight, self.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(5000))
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        if self.transposed:
            return torch.addmm(self.bias, x, self.weight)
        return functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_weight_larger_than_a_binding(transposed: bool) -> None:
    result = check(Head(transposed=transposed), torch.randn(3, 64), options=SMALL, half=False)
    for program in result.programs.values():
        assert max(tensor.size_bytes for tensor in program.tensors) <= MIB
        assert len(program.outputs[0].tensors) == 2


def test_an_embedding_and_a_head_share_their_pieces() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5000, 64))

        def forward(self, ids: Tensor) -> Tensor:
            return functional.linear(functional.embedding(ids, self.weight), self.weight)

    result = check(Tied(), torch.randint(0, 5000, (3,)), options=SMALL, half=False)
    for program in result.programs.values():
        assert len([tensor for tensor in program.tensors if tensor.constant]) == 2


def test_a_quantized_product_is_not_taken_in_half() -> None:
    """What the rule of quantized linears refuses stays whole outside, for its reason."""

    def forward(x: Tensor) -> Tensor:
        weight = torch.ops.quantized_decomposed.dequantize_per_tensor.default(codes, 0.1, 0, -128, 127, torch.int8)
        return x @ weight.t()

    codes = torch.randint(-128, 127, (6, 8), dtype=torch.int8)
    reason = refusals(forward, torch.randn(3, 8))[-1]
    assert reason.startswith("weight dequantize_per_tensor is quantized by quantized_decomposed.dequantize_per_tensor")


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (lambda x: torch.mm(x, x), (torch.ones(3, 3, dtype=torch.int64),), "matmul of i32; offered f32, f16"),
        (lambda x: x @ x.t(), (torch.ones(600, 1),), "1440000 bytes at the largest sizes; max_binding_bytes 1048576"),
    ],
)
def test_refusals(function: object, inputs: tuple[Tensor, ...], reason: str) -> None:
    assert callable(function)
    found = refusals(function, *inputs, options=SMALL)
    assert any(reason in text for text in found), found


def test_a_column_larger_than_a_binding() -> None:
    module = nn.Linear(300_000, 2, bias=False).eval()
    (reason,) = refusals(module, torch.randn(1, 300_000), options=SMALL)
    assert reason == "linear: one row takes 1200000 bytes; max_binding_bytes 1048576; raise it"


def test_a_traced_scale() -> None:
    def forward(x: Tensor) -> Tensor:
        return torch.addmm(x[:, :1], x, x.t(), alpha=x.shape[1])

    found = refusals(forward, torch.randn(3, 5), dynamic_shapes=({1: Dim("size", min=2, max=9)},))
    assert any("aten.addmm.default scaled by " in text and text.endswith("; need numbers") for text in found), found

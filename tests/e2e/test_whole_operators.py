"""Operators that stay whole through the documented call, on inputs of every stride and with views of their results.

ExecuTorch traces a graph several times while it lowers it. What torch.export recorded as a view stays a view of a
result only while every trace gives the result the strides that it had in eager PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from executorch.exir._serialize._program import deserialize_pte_binary
from torch import Tensor, nn
from torch.nn import functional

import zeropoint
from tests.e2e.running import Method, lower
from zeropoint import CompileOptions
from zeropoint.export.matching import operators_taken_whole
from zeropoint.rules import operators_kept_whole

aten = torch.ops.aten
SHAPE = (2, 3, 8, 16)


class Parameters(nn.Module):
    """A weight [12, K] and a row [K] of every width K that an input may have, and a table of 7 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({str(k): nn.Parameter(torch.randn(12, k)) for k in (3, 8, 16)})
        self.rows = nn.ParameterDict({str(k): nn.Parameter(torch.randn(k)) for k in (3, 8, 16)})
        self.table = nn.Parameter(torch.randn(7, 10))

    def weight(self, x: Tensor) -> Tensor:
        return self.weights[str(x.shape[-1])]

    def row(self, x: Tensor) -> Tensor:
        return self.rows[str(x.shape[-1])]


Operator = Callable[[Tensor, Parameters], Tensor]
OPERATORS: dict[torch._ops.OpOverload, Operator] = {
    aten.scaled_dot_product_attention.default: lambda x, p: functional.scaled_dot_product_attention(x, x + 1, x * 2),
    aten.silu.default: lambda x, p: functional.silu(x),
    aten.gelu.default: lambda x, p: functional.gelu(x),
    aten.rms_norm.default: lambda x, p: functional.rms_norm(x, x.shape[-1:], p.row(x)),
    aten.layer_norm.default: lambda x, p: functional.layer_norm(x, x.shape[-1:], p.row(x), p.row(x)),
    aten.linear.default: lambda x, p: functional.linear(x, p.weight(x), p.weight(x)[:, 0]),
    aten.matmul.default: lambda x, p: torch.matmul(x, (x * 0.5).transpose(-1, -2)),
    aten.embedding.default: lambda x, p: functional.embedding((x.abs() * 2).long().clamp(max=6), p.table),
    aten.index_copy.default: lambda x, p: torch.index_copy(x, 1, torch.arange(1), x[:, :1] * 2),
    aten.transpose.int: lambda x, p: x.transpose(1, 3),
    aten._unsafe_view.default: lambda x, p: aten._unsafe_view.default(x, x.shape),
    aten.arange.default: lambda x, p: x + torch.arange(x.shape[-1]),
    aten.arange.start: lambda x, p: x + torch.arange(1, x.shape[-1] + 1),
}
SOURCES = {aten.arange.default, aten.arange.start}  # they read no tensor
# Operators that are decomposed, in the same light.
OTHERS: dict[str, Operator] = {
    "hardswish": lambda x, p: functional.hardswish(x),
    "upsample": lambda x, p: functional.interpolate(x, scale_factor=2, mode="nearest"),
    "softmax": lambda x, p: functional.softmax(x, -1),
    "group_norm": lambda x, p: functional.group_norm(x.transpose(1, 3), 1).transpose(1, 3),
}
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "heads": lambda x: x.transpose(1, 2),
    "columns": lambda x: x.transpose(2, 3),
    "turned": lambda x: x.permute(3, 0, 2, 1),
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "rows": lambda x: x[:, :, 1::2],
    "part": lambda x: x[:, 1:, :, :8],
    "strided": lambda x: x[..., ::2],
}


def views(y: Tensor) -> list[Tensor]:
    """The result joined in the order in which its elements lie, which must be a view, and in others, which may be."""
    inner = y.permute(sorted(range(y.dim()), key=lambda axis: -y.stride(axis)))
    joined = [inner.view(inner.shape[0], -1)] if inner.is_contiguous() else []
    return [
        *joined,
        y.flatten(2),
        y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1),
        y.transpose(-1, -2).flatten(1),
    ]


class Applied(nn.Module):
    """An operator on every form of the input, and the views of its results."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator, self.parameters_of = operator, Parameters()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [view for form in FORMS.values() for view in views(self.operator(form(x), self.parameters_of))]


def check(module: nn.Module, *inputs: Tensor, outside: bool = False) -> list[list[str]]:
    """Lowers by the documented call, runs, and compares. Returns the kernels of each delegate.

    outside: some operators stay on the CPU. Else there is one delegate and nothing else.
    """
    module = module.eval()
    with torch.no_grad():
        pte, _ = lower(torch.export.export(module, inputs))
        wanted = module(*inputs)
    plan = deserialize_pte_binary(pte).program.execution_plan[0]
    if not outside:
        assert (len(plan.delegates), [operator.name for operator in plan.operators]) == (1, [])
    wanted = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    for index, (found, expected) in enumerate(zip(Method(pte)(*inputs), wanted, strict=True)):
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-5, msg=lambda text, i=index: f"output {i}: {text}"
        )
    return [[call.kernel for call in item.calls] for item in zeropoint.inspect(pte).programs]


def test_every_operator_that_is_kept_whole_has_a_case() -> None:
    assert OPERATORS.keys() == set(operators_kept_whole(CompileOptions()))


@pytest.mark.usefixtures("validated")
@pytest.mark.parametrize("name", [*OPERATORS, *OTHERS], ids=str)
def test_strides_and_views(name: torch._ops.OpOverload | str) -> None:
    operator = OTHERS[name] if isinstance(name, str) else OPERATORS[name]
    check(Applied(operator), torch.randn(SHAPE), outside=name in ("upsample", "group_norm"))


class Mixed(nn.Module):
    """Attention of two texts whose heads are joined by a view, beside one of five dimensions, which no rule takes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        heads = x.view(2, 5, 4, 16).transpose(1, 2)
        joined = functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(2, 5, 64)
        wide = heads.unsqueeze(1)
        return joined, functional.scaled_dot_product_attention(wide, wide, wide, is_causal=True)


@pytest.mark.usefixtures("validated")
def test_attention_that_is_given_up() -> None:
    (kernels,) = check(Mixed(), torch.randn(2, 5, 64))
    assert kernels.count("attention") == 1
    assert "softmax_rows" in kernels


class Outside(nn.Module):
    """Every operator on a tensor in channels-last order, which no delegate reads, and on one in the default order."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters_of = Parameters()

    def forward(self, x: Tensor) -> list[Tensor]:
        last = torch.relu(x).to(memory_format=torch.channels_last)
        return [operator(y, self.parameters_of) for operator in OPERATORS.values() for y in (last, x)]


def test_what_stays_outside_is_decomposed() -> None:
    """ExecuTorch has no CPU kernel of most operators that are kept whole: writing the .pte would fail on one."""
    exported = torch.export.export(Outside().eval(), (torch.randn(SHAPE),))
    pte, partitioner = lower(exported)
    left = {operator.name for operator in deserialize_pte_binary(pte).program.execution_plan[0].operators}
    assert "aten::native_layer_norm" in left
    assert any("offered the default dimension order" in reason for reason in partitioner.reasons.values())
    kept = operators_taken_whole(exported.run_decompositions({}), CompileOptions(), {})
    assert set(kept) == {*SOURCES, aten.sym_size.int}

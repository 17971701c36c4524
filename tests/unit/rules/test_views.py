"""Views against eager PyTorch: what they cost, and what strides cannot express."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from tests.unit.rules.general import FAMILIES, Function, check, refusals
from zeropoint import CompileOptions
from zeropoint.export.matching import match_program
from zeropoint.lowering import state
from zeropoint.lowering.aten import CASTS
from zeropoint.lowering.shapes import reshape
from zeropoint.lowering.view import View, scale
from zeropoint.program import Dim as Size


def test_views_cost_nothing() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x.permute(2, 0, 1).unsqueeze(1)[1:3, :, :, ::2].transpose(-1, -2).squeeze(1)
        return y[:, 0].expand(3, 2, 2) * 2.0

    assert check(forward, torch.randn(2, 5, 4)).kernels() == ["elementwise_binary"]


def test_every_view() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        found = [x.view(6, 4), x.reshape(-1), x.permute(-1, 0, 1), x.transpose(0, -1), x[0].t(), x.unsqueeze(-1),
                 x[:, :1].squeeze(1), x[:1, :1].squeeze(), x[:, :, :1].squeeze((1, 2)), x[:, 1], x[:, -1, -2],
                 x[:, -2:], x[:, 1:9:2], x[..., 1:2].expand(2, 3, 7), x.flatten(1), x.unflatten(2, (2, 2)),
                 x.narrow(1, 1, 2), x.clone(), x.contiguous(), x.detach(), x[:1].expand_as(x), x.view_as(x),
                 x.swapaxes(0, 1), x.permute(2, 1, 0).reshape(4, 6), x[:, :2].reshape(2, 8), x[:, :, 1:3].reshape(2,
                 3, 2, 1), x[:, :, 1:3].reshape(6, 2), x.permute(0, 2, 1).reshape(2, 2, 2, 3)]  # fmt: skip
        return [item + 1 for item in found]

    check(forward, torch.randn(2, 3, 4))


def test_results_that_are_views() -> None:
    check(lambda x: (x.t(), x[1:], x.unsqueeze(0), x), torch.randn(3, 4))


def test_a_number() -> None:
    check(lambda x: (x.reshape(1, 1) + 1, x.expand(3) * 2, x.unsqueeze(0) - 1, x.view([]) * 3), torch.tensor(2.5))


def test_splits() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        parts = [*x.split(2, 1), *x.split([1, 3, 1], -2), *x.chunk(2, 0), *x.unbind(1), *torch.tensor_split(x, 2, 1)]
        return [part * 2.0 for part in parts]

    check(forward, torch.randn(2, 5, 3))


def test_splits_cost_nothing() -> None:
    def forward(x: Tensor) -> Tensor:
        q, k, v = x.split([4, 2, 2], -1)
        return q.reshape(2, 3, 2, 2) * k.reshape(2, 3, 1, 2) + v.unsqueeze(2)

    assert check(forward, torch.randn(2, 3, 8)).kernels() == ["elementwise_binary"] * 2


def test_reshapes_of_slices() -> None:
    """Heads of a slice of a merged projection need no copy; rows of several slices do."""
    free = check(lambda x: x[:, :, 4:8].view(2, 3, 2, 2).transpose(1, 2) * 2.0, torch.randn(2, 3, 12))
    assert free.kernels() == ["elementwise_binary"]
    copied = check(lambda x: x[:, :, 4:8].reshape(2, 12) * 2.0, torch.randn(2, 3, 12))
    assert copied.kernels() == ["strided_copy", "elementwise_unary"]


def test_dynamic_sizes() -> None:
    length, batch = Dim("length", min=1, max=12), Dim("batch", min=1, max=3)

    def forward(x: Tensor) -> list[Tensor]:
        b, n, _ = x.shape
        heads = x.view(b, n, 2, 4).transpose(1, 2)
        return [heads * 2.0, heads.reshape(b * 2, n, 4) + 1, heads.transpose(1, 2).reshape(b, n, 8) - 1,
                x[:, -1:] * 3.0, x.reshape(b * n, 8) + 1, x.reshape(-1) * 2.0, x[:, n - 1] + 1, x.flatten(0, 1) * 2.0,
                x.unsqueeze(2).expand(b, n, 2, 8).reshape(b, n * 2, 8) + 1]  # fmt: skip

    check(
        forward, torch.randn(2, 6, 8), dynamic_shapes=({0: batch, 1: length},),
        calls=[(torch.randn(b, n, 8),) for b, n in ((1, 2), (3, 12))],
    )  # fmt: skip


def test_slices_of_dynamic_sizes() -> None:
    half = Dim("half", min=2, max=6)

    def forward(x: Tensor) -> list[Tensor]:
        n = x.shape[1] // 2
        return [x[:, :n] * 2.0, x[:, n:] * 2.0, x[:, 1:] * 2.0, x[:, 1:-1] * 2.0, torch.cat((-x[:, n:], x[:, :n]), 1)]

    check(
        forward, torch.randn(2, 6, 8), dynamic_shapes=({1: 2 * half},), calls=[(torch.randn(2, n, 8),) for n in (4, 12)]
    )  # fmt: skip


def test_dynamic_dimensions_beyond_four() -> None:
    """The outermost dimension is dynamic and nothing merges: a static one is looped over."""
    batch, length = Dim("batch", min=1, max=3), Dim("length", min=1, max=7)

    def forward(x: Tensor) -> Tensor:
        return x.permute(0, 4, 3, 2, 1).reshape(x.shape[0], -1) + 1

    check(
        forward, torch.randn(2, 3, 2, 5, 2), dynamic_shapes=({0: batch, 3: length},),
        calls=[(torch.randn(3, 3, 2, 2, 2),)],
    )  # fmt: skip


def test_dropout_of_a_model_in_evaluation() -> None:
    assert check(torch.nn.Dropout(0.5).eval(), torch.randn(3), half=False).kernels() == ["strided_copy"]


def test_reshape_of_strides() -> None:
    def dims(*sizes: int) -> tuple[Size, ...]:
        return tuple(Size(size) for size in sizes)

    def multiply(a: Size, b: Size) -> Size:
        return scale(a, b.base)

    torch.manual_seed(0)
    base = torch.arange(5 * 7 * 6)
    for _ in range(300):
        shape = [int(size) for size in torch.randint(1, 4, (3,))]
        strides = [int(stride) for stride in torch.randint(0, 12, (3,))]
        if torch.rand(()) > 0.5:  # neighbours that merge, now and then
            strides[1] = strides[2] * shape[2]
        x = base.as_strided(shape, strides)
        for wanted in ([-1], [shape[0], -1], [shape[0] * shape[1], -1], [1, *shape[:2], 1, shape[2]], [-1, shape[2]]):
            sizes = list(x.reshape(wanted).shape)
            found = reshape(View(0, Size(0), dims(*shape), dims(*strides)), dims(*sizes), multiply)
            if found is not None:
                again = base.as_strided(sizes, [stride.base for stride in found.strides])
                assert torch.equal(again, x.reshape(wanted)), (shape, strides, sizes)
            else:
                with pytest.raises(RuntimeError):
                    x.view(sizes)


def test_every_rule_that_binds_a_view_is_known_to_share() -> None:
    """state.updatable must see through each of them."""
    from zeropoint.rules import views

    unary = {name for name in views.RULES if not name.startswith(("getitem", "aten._assert"))}
    assert unary | set(CASTS) <= state.SHARING
    assert {"aten.flip.default", "aten.repeat.default"} <= state.SHARING
    assert all("aten.copy.default" not in family.RULES or family.__name__.endswith("indexing") for family in FAMILIES)


def test_refusals() -> None:
    x = torch.randn(3, 4, dtype=torch.complex64)
    assert "dtype torch.complex64; offered" in refusals(lambda x: x.t(), x)[0]
    raw = torch.export.export(Function(lambda x: torch.dropout(x, 0.5, True)), (torch.randn(3),))
    (reason,) = match_program(raw, CompileOptions()).reasons.values()
    assert reason == "dropout in training, p 0.5; export the model after .eval()"


def test_an_index_that_may_be_negative() -> None:
    def forward(x: Tensor, at: Tensor) -> Tensor:
        index = at.item()
        torch._check(index > -3)
        torch._check(index < 2)
        return x.select(0, index) * 2.0

    reasons = refusals(forward, torch.randn(3, 4), torch.tensor(1))
    assert any("may be negative; need torch._check(index >= 0), or a number" in text for text in reasons), reasons


def test_parts_of_constants() -> None:
    """Their beginning lies densely, but a kernel must not take all of the constant for it."""
    table = torch.randn(12, 4)

    def forward(x: Tensor) -> list[Tensor]:
        n = x.shape[0]
        return [
            torch.relu(table[:3]),
            torch.relu(table[:n]) + x,
            table[:n].softmax(-1),
            torch.exp(table[2:4]),
            table[:n].sum(),
        ]

    check(forward, torch.randn(5, 4), dynamic_shapes=({0: Dim("n", min=1, max=12)},), calls=[(torch.randn(12, 4),)])

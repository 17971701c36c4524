"""Reading and writing at indices against eager PyTorch, and when a state is written in place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from tests.unit.rules.general import check, refusals

put = torch.ops.aten.index_put.default  # Tensor.index_put takes no None


def test_one_index() -> None:
    def forward(x: Tensor, k: Tensor, j: Tensor) -> list[Tensor]:
        return [x.index_select(1, k), x[:, k], x[k - 3], x[:, j], x[..., k], x.transpose(0, 1)[:, k], 
                x.index_select(0, k[:1]), x[k[:, None]]]  # fmt: skip

    inputs = (torch.randn(4, 5, 6), torch.tensor([3, 0, -1]).abs(), torch.tensor([[1, -2], [0, 4]]))
    check(forward, *inputs)
    assert check(lambda x, k: x[:, k], *inputs[:2]).kernels() == ["gather"]


def test_several_indices() -> None:
    def forward(x: Tensor, k: Tensor, j: Tensor) -> list[Tensor]:
        return [x[k, j], x[k - 2, j - 4], x[:, k, j], x[k, :, j], x[:, k[:, None], j], x[k, j, k],
                x[:, :, 1:5][k, j, j], x.transpose(0, 2)[k, j], x[k[:, None], :, j], x[:, None].expand(4, 3, 5, 6)[k,
                k, j]]  # fmt: skip

    check(forward, torch.randn(4, 5, 6), torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0]))


def test_places_that_count_up_need_no_remainder() -> None:
    """As in attention masks: batch and position as aranges."""

    def forward(mask: Tensor) -> Tensor:
        rows, columns = torch.arange(2)[:, None, None], torch.arange(5)
        return mask[rows, columns] & (columns > 0)

    kernels = check(forward, torch.rand(2, 5) > 0.5, half=False).kernels()
    assert kernels.count("elementwise_binary") == 1  # row * 5 + column


def test_dtypes() -> None:
    def forward(i: Tensor, b: Tensor, k: Tensor) -> list[Tensor]:
        return [
            i[k],
            b[:, k],
            i.int()[k.int()],
            i.index_put((k,), i[:1]),
            b.index_put((k[:2],), b[:2]),
            i.gather(0, k[None]),
        ]

    check(forward, torch.randint(0, 9, (3, 3)), torch.rand(3, 3) > 0.5, torch.tensor([2, 0, 1]), half=False)


def test_gather_and_scatter() -> None:
    def forward(x: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        return [x.gather(1, k), x.gather(0, k[:, :1]), x.transpose(0, 1).gather(1, k[:1].transpose(0, 1)),
                x.scatter(1, k[:, :1], v), x.scatter(0, k[:1], v), x.scatter(1, k[:, :2], 7.0)]  # fmt: skip

    check(forward, torch.randn(2, 5, 3), torch.randint(0, 2, (2, 4, 3)), torch.randn(2, 5, 3))


def test_writes() -> None:
    def forward(x: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        one = torch.tensor(1.5)
        return [
            x.index_put((k,), v),
            x.index_copy(0, k, v),
            x.index_put((k, k), v[:, 0]),
            put(x, [None, k[:2]], v[0, 0]),
            x.index_put((k,), one),
            x.index_copy(-1, k[:1] - 1, x[..., :1] * 2.0),
            put(x, [k, None, k], v[..., 0]),
            torch.slice_scatter(x, v, 0, 1, 4),
            torch.select_scatter(x, v[0], 0, -1),
            torch.slice_scatter(x, v[:2], 0, 1, 5, 2),
            x.index_put((x > 0,), one),
            x.index_put((x[:, 0] > 0,), one),
        ]

    check(forward, torch.randn(5, 4, 4), torch.tensor([1, 3, 0]), torch.randn(3, 4, 4))


def test_assignments() -> None:
    def forward(x: Tensor, v: Tensor) -> Tensor:
        y = x.clone()
        y[:, 1:3] = v
        y[0, -1] = 2.0
        y[..., 0] = y[..., 1]
        y[y > 1.5] = -1.0
        return y

    check(forward, torch.randn(2, 5, 3), torch.randn(2, 2, 3))


def test_more_than_four_dimensions() -> None:
    def forward(x: Tensor, k: Tensor) -> list[Tensor]:
        y = x.permute(4, 3, 2, 1, 0)
        return [y[:, :, k], y.index_select(0, k), y.index_put((k,), y[:2]), y[:, k, :, k[:1]]]

    check(forward, torch.randn(2, 3, 2, 3, 2), torch.tensor([1, 0]))


def test_dynamic_sizes() -> None:
    length = Dim("length", min=1, max=9)

    def forward(x: Tensor, k: Tensor, mask: Tensor) -> list[Tensor]:
        n = x.shape[1]
        rows, columns = torch.arange(2)[:, None, None, None], torch.arange(n)
        return [x[:, k], x.index_select(1, k), x[k % 2, k], x.index_copy(1, k, x * 2.0), mask[rows, columns],
                mask[0, k - n], put(x, [None, k], x + 1), torch.slice_scatter(x, x[:, :1] * 3.0, 1, 0, 1),
                x.gather(1, k[None, :, None])]  # fmt: skip

    check(
        forward, torch.randn(2, 5, 3), torch.randperm(5), torch.rand(2, 5) > 0.5,
        dynamic_shapes=({1: length}, {0: length}, {1: length}),
        calls=[(torch.randn(2, n, 3), torch.randperm(n), torch.rand(2, n) > 0.5) for n in (1, 9)],
    )  # fmt: skip


class Cache(nn.Module):
    """Writes into a buffer, in one of several ways, and reads what it holds then."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("cache", torch.randn(1, 2, 8, 4))

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        before = self.cache.sum() if self.how == "read before" else 0
        old = self.cache.transpose(1, 2) if self.how == "old view" else self.cache
        if self.how == "index_put":
            self.cache[:, :, at] = x
        elif self.how == "slice":
            self.cache[:, :, 2:4] = x
        elif self.how == "shift":
            self.cache[:, :, :-2] = self.cache[:, :, 2:].clone()
        elif self.how == "twice":
            self.cache[:, :, at] = x
            self.cache[:, :, at + 1] = x * 2.0
        elif self.how == "functional":
            return self.cache.index_copy(2, at, x) + self.cache
        elif self.how == "old value":
            new = self.cache.index_copy(2, at, x)
            found = new.sum() - self.cache.sum()
            self.cache.copy_(new)
            return found
        else:
            self.cache.index_copy_(2, at, x)
        return (self.cache * 2.0).sum(-1) + before + (0 if self.how != "old view" else old.sum())


@pytest.mark.parametrize(
    ("how", "copies"),
    [
        ("index_copy", 0),
        ("index_put", 0),
        ("slice", 1),  # the slice itself
        ("twice", 0),
        ("read before", 0),
        ("old view", 0),  # a view of a buffer sees the write
        ("functional", 1),
        ("old value", 2),
        ("shift", 3),  # it reads what it writes: a copy of the state, the shift, the write-back
    ],
)
def test_states(how: str, copies: int) -> None:
    inputs = (torch.randn(1, 2, 2, 4), torch.tensor([1, 5]))
    result = check(Cache(how), *inputs, half=False, calls=[(torch.randn(1, 2, 2, 4), torch.tensor([6, 3]))])
    for dialect in result.programs:
        # Sums of numbers and of elements copy no cache.
        calls = [call for call in result.programs[dialect].calls if call.kernel == "strided_copy"]
        big = [call for call in calls if "cache" in call.name or "scatter" in call.name or ".copy" in call.name
               or "update" in call.name or "copy" in call.name.split(".")[-1]]  # fmt: skip
        assert len(big) <= copies, [call.name for call in calls]


def test_a_value_that_reads_its_state() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.arange(8.0))

        def forward(self, x: Tensor) -> Tensor:
            self.cache.copy_(torch.slice_scatter(self.cache, self.cache[2:], 0, 0, 6))
            return self.cache + x

    check(Shift(), torch.randn(8), half=False)


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (lambda x, k: x.index_put((k,), x[:2], accumulate=True), (torch.randn(3, 2), torch.tensor([0, 1])),
         "index_put that accumulates; offered plain writes"),
        (lambda x, k: x.index_put((k > 0,), x[:1]), (torch.randn(2, 2), torch.tensor([0, 1])),
         "is a mask: its result has no static size; offered integers"),
        (lambda x, k: x[k], (torch.ones(3, dtype=torch.int8), torch.tensor([0])),
         "gather of i8; offered f32, f16, i32, u8"),
        (lambda x, k: x.index_copy(0, k, x[:1]), (torch.ones(3, dtype=torch.int8), torch.tensor([0])),
         "scatter of i8; offered f32, f16, i32, u8"),
        (lambda x, k: x.gather(0, k), (torch.tensor(1.0), torch.tensor(0)), "aten.gather.default of a tensor without"),
        (lambda x, k: x.scatter(0, k, 1.0), (torch.tensor(1.0), torch.tensor(0)), "into a tensor without dimensions"),
    ],
)  # fmt: skip
def test_refusals(function: object, inputs: tuple[Tensor, ...], reason: str) -> None:
    assert callable(function)
    found = refusals(function, *inputs)
    assert any(reason in text for text in found), found


def test_refusal_of_dimensions_that_do_not_merge() -> None:
    found = refusals(
        lambda x, k: x.gather(2, k), torch.randn(3, 3, 3, 3, 3), torch.zeros(2, 2, 2, 2, 2, dtype=torch.int64)
    )
    assert found == ["gather: operands of 5 dimensions that do not merge; offered 4"]


def test_refusal_of_a_traced_step() -> None:
    def forward(x: Tensor) -> Tensor:
        return torch.slice_scatter(x, x[:1], 0, 0, 1, x.shape[1])

    found = refusals(forward, torch.randn(6, 2), dynamic_shapes=({1: Dim("n", min=2, max=5)},))
    assert found == ["slice_scatter by a step of sym_size_int_1; need a number"]

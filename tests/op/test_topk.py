"""topk_rows: the first elements of rows, in order; NaN, equal elements, pieces of long rows and strides."""

from __future__ import annotations

import math

import pytest
import torch

from tests.op.calls import checked_call, mutated_library, run_call
from tests.op.cases import out
from tests.op.test_rows import special_rows
from tests.op.values import dense_rows, integers, normal
from zeropoint.kernels._generated.signatures import SIGNATURES, TopkOp

PIECE = SIGNATURES["topk_rows"].constants["PIECE"]
SHAPES = [(1, 1, 1), (3, 2, 2), (2, 37, 5), (7, 128, 128), (2, 1009, 40), (3, PIECE, 1), (1, PIECE, PIECE),
          (2, PIECE + 1, 3), (1, 3 * PIECE + 5, 64), (1, 49157, 1), (1, 2 * PIECE, PIECE // 2)]  # fmt: skip
NARROW = [torch.float32, torch.float16, torch.int32]


def first(x: torch.Tensor, k: int, op: TopkOp) -> tuple[torch.Tensor, torch.Tensor]:
    """The call, checked, and calls again on what its pieces gave until a row is one piece: y and index [rows, k]."""
    inputs = {"x": x}
    while True:
        length = inputs["x"].shape[-1]
        shape = (x.shape[0], -(-length // PIECE) * k)
        specs = {"y": out(shape, x.dtype), "index": out(shape, torch.int32)}
        found, wanted = checked_call("topk_rows", inputs, specs, {"op": int(op), "k": k, **dense_rows(length)})
        assert torch.equal(found["index"], wanted["index"])
        inputs = {"x": found["y"], "from": found["index"]}
        if shape[1] == k:
            return found["y"], found["index"]


def in_order(x: torch.Tensor, op: TopkOp) -> torch.Tensor:
    """torch's stable order of each row."""
    return x.sort(dim=-1, stable=True, descending=op is TopkOp.LARGEST).indices


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", TopkOp, ids=str)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_first_elements(shape: tuple[int, int, int], op: TopkOp, dtype: torch.dtype) -> None:
    *size, k = shape
    x = integers(*size, low=-(2**31), high=2**31 - 1) if dtype is torch.int32 else normal(*size).to(dtype)
    y, index = first(x, k, op)
    assert torch.equal(index.long(), in_order(x, op)[:, :k])
    assert torch.equal(y, x.gather(-1, index.long()))


@pytest.mark.parametrize("length", [5, 300, PIECE + 700])
@pytest.mark.parametrize("op", TopkOp, ids=str)
@pytest.mark.parametrize("dtype", NARROW[:2], ids=str)
def test_nan_is_the_largest_and_equal_elements_keep_their_order(length: int, op: TopkOp, dtype: torch.dtype) -> None:
    x = special_rows(length, dtype)
    y, index = first(x, 5, op)
    assert torch.equal(index.long(), in_order(x, op)[:, :5])
    bits = torch.int32 if dtype is torch.float32 else torch.int16
    assert torch.equal(y.view(bits), x.gather(-1, index.long()).view(bits))  # NaN and the sign of zero, too


def test_the_least_integer_comes_before_what_is_not_there() -> None:
    """A piece of two elements, of which four are asked for."""
    x = torch.full((1, PIECE + 2), -(2**31), dtype=torch.int32)
    y, index = first(x, 4, TopkOp.LARGEST)
    assert index.tolist() == [[0, 1, 2, 3]]
    assert y.tolist() == [[-(2**31)] * 4]
    y, index = first(torch.full((1, PIECE + 2), math.nan), 4, TopkOp.SMALLEST)
    assert index.tolist() == [[0, 1, 2, 3]]


def test_rows_that_lie_in_two_levels() -> None:
    """Rows 3 to 8 of each of two slices, from an offset on."""
    x = normal(2, 10, 70)
    attrs = {"op": 0, "k": 3, "row_length": 66, "x_offset": 3 * 70 + 2, "x_inner_rows": 6, "x_outer_stride": 700}
    specs = {"y": out((12, 3), x.dtype), "index": out((12, 3), torch.int32)}
    found, _ = checked_call("topk_rows", {"x": x}, specs, {**attrs, "x_inner_stride": 70})
    wanted = x[:, 3:9, 2:68].reshape(12, 66).topk(3)
    assert torch.equal(found["index"].long(), wanted.indices)
    assert torch.equal(found["y"], wanted.values)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" || (keys[a] == keys[b] && places[a] < places[b])", ""),
        ("i / run * run + run - 1u - i % run", "i"),
        ("key = kLargest;", "key = 0;"),
        ("size - 1u - i % half_size", "half_size + i % half_size"),
    ],
    ids=["order of equals", "halves", "nan", "first step"],
)
def test_mutations(old: str, new: str) -> None:
    x = torch.cat([special_rows(300, torch.float32), normal(3, 300)])
    specs = {"y": out((14, 37), x.dtype), "index": out((14, 37), torch.int32)}
    attrs = {"op": 0, "k": 37, **dense_rows(300)}
    wanted = in_order(x, TopkOp.LARGEST)[:, :37]
    found, _ = run_call("topk_rows", {"x": x}, specs, attrs)
    assert torch.equal(found["index"].long(), wanted)
    library = mutated_library("topk_rows", "topk_rows.comp", old, new)
    found, _ = run_call("topk_rows", {"x": x}, specs, attrs, library=library)
    assert not torch.equal(found["index"].long(), wanted)

"""strided_copy, arange and constant_pad, at every dtype."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.op.cases import Case, check, out
from tests.op.values import ALL_HALVES, base, floats, integers, normal, size_attrs, view_attrs

DTYPES = [torch.float32, torch.float16, torch.int32, torch.int8, torch.uint8]


def f32_bits(value: float) -> int:
    return int(torch.tensor(value, dtype=torch.float32).view(torch.int32))


def copy_case(x: torch.Tensor, y: torch.Tensor) -> Case:
    """Copies the view x into the view y of a tensor, whose other elements must stay."""
    shape = torch.broadcast_shapes(x.shape, y.shape)
    attrs = size_attrs(shape) | view_attrs("x", x.expand(shape)) | view_attrs("y", y)
    x_base, y_base = (base(view) for view in (x, y))
    return Case("strided_copy", {"x": x_base}, y_base, attrs)


def source(dtype: torch.dtype) -> torch.Tensor:
    """Values that every cast must get right; floats outside i32 and NaN included."""
    if dtype == torch.float16:
        return ALL_HALVES
    if dtype == torch.float32:
        near = torch.tensor(
            [-2147483520.0, 2147483520.0, 255.0, 256.5, -1.0, -0.99, 127.9, -128.9, 65504.0, 65519.0, 2049.0]
        )
        return torch.cat([floats(4099), near])
    if dtype == torch.int32:
        edges = torch.tensor(
            [0, 1, -1, 127, 128, -128, -129, 255, 256, 16777217, -(2**31), 2**31 - 1], dtype=torch.int32
        )
        return torch.cat([edges, integers(997, low=-(2**31), high=2**31 - 1)])
    return torch.arange(256, dtype=torch.int32).to(dtype)


@pytest.mark.parametrize("pair", list(itertools.product(DTYPES, DTYPES)), ids=lambda pair: f"{pair[0]}-{pair[1]}")
def test_casts(pair: tuple[torch.dtype, torch.dtype]) -> None:
    x = source(pair[0])
    check([copy_case(x, torch.zeros(x.shape, dtype=pair[1]))])


def test_copies_keep_every_bit() -> None:
    """NaN payloads, subnormals and the sign of zero pass through a copy of one dtype."""
    bits = integers(4099, low=-(2**31), high=2**31 - 1, seed=3)
    floating = bits.view(torch.float32)
    (y,) = check([copy_case(floating, torch.zeros(4099))])
    assert torch.equal(y.view(torch.int32), bits)
    (half,) = check([copy_case(ALL_HALVES, torch.zeros(2**16, dtype=torch.float16))])
    assert torch.equal(half.view(torch.int16), ALL_HALVES.view(torch.int16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views(dtype: torch.dtype) -> None:
    """Permute, expand, slice with a step, select, and pieces of a cat."""
    x = integers(5, 3, 7, 11, low=0, high=100).to(dtype)
    target = integers(13, 40, low=0, high=100, seed=1).to(dtype)
    cases = [
        copy_case(x.permute(0, 2, 1, 3), torch.zeros(5, 7, 3, 11, dtype=dtype)),
        copy_case(x.permute(3, 0, 2, 1), torch.zeros(11, 5, 7, 3, dtype=dtype)),
        copy_case(x[1, :, ::2, 3:9:4], torch.zeros(3, 4, 2, dtype=dtype)),
        copy_case(x[2, 1, 3], torch.zeros(9, 11, dtype=dtype)),
        copy_case(x[0, 0], target[3:10, 20:31]),
        copy_case(x[4, 2, :, 5], target[::2, 39]),
        copy_case(x[:, 0, 0, :1], torch.zeros(5, 1, dtype=dtype)),
    ]
    check(cases)


def test_reversed() -> None:
    """A negative stride: flip, which torch has no view for."""
    x = normal(129)
    attrs = size_attrs([129]) | view_attrs("x", x) | view_attrs("y", torch.zeros(129))
    (y,) = check([Case("strided_copy", {"x": x}, out([129], x.dtype), {**attrs, "x_offset": 128, "x_stride3": -1})])
    assert torch.equal(y, x.flip(0))


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.float16], ids=str)
def test_arange(dtype: torch.dtype) -> None:
    pairs = [(0, 1), (7, -3), (-1000, 2)]
    check([Case("arange", {}, out([n], dtype), {"start": a, "step": s}) for n in (1, 127, 129, 509) for a, s in pairs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize(
    "pad", [(1, 2), (0, 0, 3, 1), (2, 0, 0, 5, 1, 1), (-1, 2, 3, -2), (1, 1, 1, 1, 1, 1, 2, 0), (-5, -5)], ids=str
)
def test_constant_pad(dtype: torch.dtype, pad: tuple[int, ...]) -> None:
    """pad as in torch.nn.functional.pad: from the last dimension backwards; negative cuts off."""
    x = integers(2, 5, 7, 11, low=1, high=100).to(dtype)
    value = 7
    wanted = torch.nn.functional.pad(x, pad, value=value)
    before = {f"before{axis}": 0 for axis in range(4)} | {f"before{3 - i}": p for i, p in enumerate(pad[::2])}
    bits = f32_bits(value) if dtype.is_floating_point else value
    attrs = size_attrs(wanted.shape) | size_attrs(x.shape, "x_size") | view_attrs("x", x) | before | {"bits": bits}
    (y,) = check([Case("constant_pad", {"x": x}, out(wanted.shape, dtype), attrs)])
    assert torch.equal(y, wanted)


def test_pad_of_a_view() -> None:
    x = normal(7, 11)
    shape = (13, 9)
    attrs = size_attrs(shape) | size_attrs((11, 7), "x_size") | view_attrs("x", x.T)
    attrs |= {"before0": 0, "before1": 0, "before2": 1, "before3": 2, "bits": f32_bits(-math.inf)}
    (y,) = check([Case("constant_pad", {"x": x}, out(shape, x.dtype), attrs)])
    assert torch.equal(y, torch.nn.functional.pad(x.T, (2, 0, 1, 1), value=-math.inf))

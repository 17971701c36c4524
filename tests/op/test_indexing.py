"""embedding, embedding_quantized, embedding_packed, gather and scatter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.op.calls import checked_call
from tests.op.cases import Case, Packed, check, out
from tests.op.tolerance import ROUNDED_ONCE_UNITS
from tests.op.values import base, floats, integers, normal, size_attrs, view_attrs
from zeropoint.lowering.packing import Layout, pack_scales, pack_weight, pack_zeros

FLOAT_DTYPES = [torch.float32, torch.float16]
ELEMENT_DTYPES = [torch.float32, torch.float16, torch.int32, torch.uint8]
IDS = torch.tensor([[0, 36, 5], [5, 1, 35]], dtype=torch.int32)


@pytest.mark.parametrize("table_dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 63, 576])
def test_embedding(table_dtype: torch.dtype, dtype: torch.dtype, length: int) -> None:
    table = normal(37, length, dtype=table_dtype)
    (y,) = check([Case("embedding", {"ids": IDS, "table": table}, out((2, 3, length), dtype), {"first_row": 0})])
    assert torch.equal(y, torch.nn.functional.embedding(IDS, table).to(dtype))


def test_embedding_in_pieces() -> None:
    """Each call writes the rows that its piece of the vocabulary holds, and no other."""
    table = normal(37, 65)
    y = floats(6 * 65).reshape(2, 3, 65)
    pieces = [(0, 6), (6, 30), (36, 1)]
    results = check([
        Case("embedding", {"ids": IDS, "table": table[first : first + count].clone()}, y, {"first_row": first})
        for first, count in pieces
    ])  # fmt: skip
    for (first, count), result in zip(pieces, results, strict=True):
        inside = (first <= IDS) & (first + count > IDS)
        assert torch.equal(result[inside], torch.nn.functional.embedding(IDS, table)[inside])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scale_dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("zero_points", [False, True], ids=["", "zeros"])
@pytest.mark.parametrize(("length", "group_size"), [(64, 32), (60, 12), (63, 63), (63, 9), (1, 1)])
def test_quantized_embedding(
    bits: int, scale_dtype: torch.dtype, dtype: torch.dtype, zero_points: bool, length: int, group_size: int
) -> None:
    low, high = (-8, 8) if bits == 4 else (-128, 128)
    codes = integers(37, length, low=low, high=high, dtype=torch.int8)
    groups = length // group_size
    scale = (normal(37, groups, seed=1).abs() * 0.02 + 0.001).to(scale_dtype)
    inputs: dict[str, torch.Tensor | Packed] = {"ids": IDS, "scale": scale, "table": codes}
    wanted = codes.double()
    if bits == 4:
        inputs["table"] = Packed("i4", (37, length + length % 2), pack_nibbles(codes.numpy()))
    if zero_points:
        inputs["w_zp"] = integers(37, groups, low=low, high=high, seed=2, dtype=torch.int8)
        wanted = wanted - inputs["w_zp"].double().repeat_interleave(group_size, 1)
    wanted = wanted * scale.double().repeat_interleave(group_size, 1)
    attrs = {"row_length": length, "group_size": group_size, "first_row": 0}
    case = Case("embedding_quantized", inputs, out((2, 3, length), dtype), attrs, units=ROUNDED_ONCE_UNITS)
    (y,) = check([case])
    torch.testing.assert_close(y.double(), wanted[IDS.long()], rtol=1e-3 if dtype == torch.float16 else 1e-7, atol=1e-7)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scale_dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("zero_points", [False, True], ids=["", "zeros"])
@pytest.mark.parametrize(("length", "group_size"), [(64, 32), (96, 96), (512, 256), (60, 12), (63, 63), (40, 8)])
def test_packed_embedding(
    bits: int, scale_dtype: torch.dtype, dtype: torch.dtype, zero_points: bool, length: int, group_size: int
) -> None:
    """Steps of whole groups, and of parts of one; padding in a group and after the last one."""
    low, high = (-8, 8) if bits == 4 else (-128, 128)
    codes = integers(37, length, low=low, high=high, dtype=torch.int8)
    scale = (normal(37, length // group_size, seed=1).abs() * 0.02 + 0.001).to(scale_dtype)
    zeros = integers(37, length // group_size, low=-255, high=256, seed=2) if zero_points else None
    wanted = codes.double() - (0 if zeros is None else zeros.double().repeat_interleave(group_size, 1))
    wanted = wanted * scale.double().repeat_interleave(group_size, 1)
    inputs, attrs = packed_table(codes, scale, zeros, bits=bits)
    y = out((2, 3, length), dtype)
    (found,) = check([Case("embedding_packed", {"ids": IDS, **inputs}, y, attrs, units=ROUNDED_ONCE_UNITS)])
    rtol = 1e-3 if dtype == torch.float16 else 1e-7
    torch.testing.assert_close(found.double(), wanted[IDS.long()], rtol=rtol, atol=1e-7)


def packed_table(
    codes: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor | None, *, bits: int
) -> tuple[dict[str, torch.Tensor | Packed], dict[str, int]]:
    """Slots and attributes of a table of int8 codes [V, D], scales and zeros [V, groups]."""
    (rows, length), group_size = codes.shape, codes.shape[1] // scale.shape[1]
    layout, chunk = Layout.of(length, group_size), 128 // bits
    w = Packed(f"i{bits}", (layout.packed_length // chunk, rows, chunk), pack_weight(codes.numpy(), layout, bits=bits))
    slots: dict[str, torch.Tensor | Packed] = {"w": w, "w_scale": torch.from_numpy(pack_scales(scale.numpy(), layout))}
    if zeros is not None:
        slots["w_zp"] = torch.from_numpy(pack_zeros(zeros.numpy().astype(np.int32), layout))
    attrs = {"row_length": length, "group_size": group_size, "group_padded": layout.group_padded, "step": layout.step}
    return slots, {**attrs, "first_row": 0}


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """int8 [V, D] in [-8, 7] -> uint8 [V, D / 2], the lower nibble first; an odd D is padded."""
    padded = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))).astype(np.uint8) & 15
    return np.ascontiguousarray(padded[:, ::2] | padded[:, 1::2] << 4)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_embedding_in_pieces(bits: int) -> None:
    codes = integers(9, 32, low=-8, high=8, dtype=torch.int8)
    table = Packed("i4", (9, 32), pack_nibbles(codes.numpy())) if bits == 4 else codes
    inputs = {"ids": IDS, "table": table, "scale": torch.full((9, 1), 0.5)}
    attrs = {"row_length": 32, "group_size": 32, "first_row": 28}
    (y,) = check([Case("embedding_quantized", inputs, torch.full((2, 3, 32), 7.0), attrs)])
    assert torch.equal(y[0, 1], codes[8] * 0.5)
    assert torch.equal(y[0, 0], torch.full((32,), 7.0))


def elements(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    if dtype.is_floating_point:
        return normal(*shape, seed=seed, dtype=dtype)
    return integers(*shape, low=0, high=200, seed=seed).to(dtype)


def gather_case(x: torch.Tensor, axis: int, index: torch.Tensor) -> Case:
    """torch.gather of rank up to 4, by attributes."""
    attrs = size_attrs(index.shape) | view_attrs("x", x) | view_attrs("index", index)
    attrs[f"x_stride{axis + 4 - x.ndim}"] = 0
    attrs |= {"axis_stride": x.stride(axis), "axis_length": x.shape[axis]}
    x_base, index_base = (base(view) for view in (x, index))
    return Case("gather", {"x": x_base, "index": index_base}, out(index.shape, x.dtype), attrs)


@pytest.mark.parametrize("dtype", ELEMENT_DTYPES, ids=str)
@pytest.mark.parametrize("axis", range(3))
def test_gather(dtype: torch.dtype, axis: int) -> None:
    x = elements(5, 7, 11, dtype=dtype)
    index = integers(3, 7, 9, low=0, high=x.shape[axis])
    (y,) = check([gather_case(x, axis, index)])
    assert torch.equal(y, torch.gather(x, axis, index.long()))


@pytest.mark.parametrize("axis", range(3))
def test_index_select(axis: int) -> None:
    """One index for a whole row: the index tensor is expanded, x is a permuted view."""
    x = normal(7, 5, 11).permute(1, 0, 2)
    index = integers(13, low=-x.shape[axis], high=x.shape[axis])
    shape = [13 if other == axis else size for other, size in enumerate(x.shape)]
    expanded = index.reshape([-1 if other == axis else 1 for other in range(3)]).expand(shape)
    (y,) = check([gather_case(x, axis, expanded)])
    assert torch.equal(y, x.index_select(axis, index.long() % x.shape[axis]))


def test_index_outside() -> None:
    """An index outside gives 0 and reads nothing; negative ones count from the end."""
    x = normal(4, 5) + 10
    index = torch.tensor([[0, -1, 5, -6, 4, 2147483647, -2147483648]] * 4, dtype=torch.int32)
    (y,) = check([gather_case(x, 1, index)])
    assert torch.equal(
        y, torch.stack([x[:, 0], x[:, 4], 0 * x[:, 0], 0 * x[:, 0], x[:, 4], 0 * x[:, 0], 0 * x[:, 0]], 1)
    )


def scatter_case(x: torch.Tensor, axis: int, index: torch.Tensor, y: torch.Tensor) -> Case:
    """y.index_copy_(axis, index, x): index [n], x a view with n elements along the axis."""
    shape = x.shape
    expanded = index.reshape([-1 if other == axis else 1 for other in range(x.ndim)]).expand(shape)
    attrs = size_attrs(shape) | view_attrs("x", x) | view_attrs("index", expanded) | view_attrs("y", y)
    attrs[f"y_stride{axis + 4 - y.ndim}"] = 0
    attrs |= {"axis_stride": y.stride(axis), "axis_length": y.shape[axis]}
    return Case("scatter", {"x": base(x), "index": index}, y, attrs)


@pytest.mark.parametrize(
    "pair", [*((d, d) for d in ELEMENT_DTYPES), tuple(FLOAT_DTYPES), tuple(reversed(FLOAT_DTYPES))], ids=str
)
def test_cache_write(pair: tuple[torch.dtype, torch.dtype]) -> None:
    """Keys [B, T, H, D] into a cache [B, H, S, D] at T positions; the rest of the cache stays."""
    keys = elements(2, 5, 3, 16, dtype=pair[0]).permute(0, 2, 1, 3)
    cache = elements(2, 3, 31, 16, dtype=pair[1], seed=1)
    positions = torch.tensor([30, 0, 7, 8, 9], dtype=torch.int32)
    (y,) = check([scatter_case(keys, 2, positions, cache)])
    assert torch.equal(y, cache.index_copy(2, positions.long(), keys.to(pair[1])))


@pytest.mark.parametrize("axis", range(4))
def test_scatter_along_every_axis(axis: int) -> None:
    y = normal(5, 6, 7, 8)
    index = torch.tensor([3, -1, 9, 0, -9, 2], dtype=torch.int32)  # no two name one place: any write may be the last
    shape = [6 if other == axis else size for other, size in enumerate(y.shape)]
    check([scatter_case(normal(*shape, seed=1), axis, index, y)])


def test_index_put_by_linear_index() -> None:
    """index_put with several index tensors: the rule adds them up; axis_stride 1 over the whole of y."""
    y, x = normal(9, 13), normal(2, 3, seed=1)
    rows, columns = integers(2, 3, low=0, high=9, seed=2), torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
    linear = rows * 13 + columns
    attrs = size_attrs(x.shape) | view_attrs("x", x) | view_attrs("index", linear)
    attrs |= {"y_offset": 0, **{f"y_stride{axis}": 0 for axis in range(4)}, "axis_stride": 1, "axis_length": y.numel()}
    (result,) = check([Case("scatter", {"x": x, "index": linear}, y, attrs)])
    assert torch.equal(result, y.index_put((rows.long(), columns.long()), x))


@pytest.mark.parametrize("n", [1, 127, 1000])
@pytest.mark.parametrize("bad", [[], [0], [-1], [3, -2]], ids=str)
def test_check_index(n: int, bad: list[int]) -> None:
    """Every other of the elements from the first on, of which the first bad one is reported."""
    x = integers(2 * n, low=-8, high=8)
    for place in bad:
        x[2 * (place % n)] = 8 if place % 2 else -9
    attrs = {f"size{axis}": n if axis == 3 else 1 for axis in range(4)} | {"x_offset": 0}
    attrs |= {f"x_stride{axis}": 2 if axis == 3 else 0 for axis in range(4)}
    attrs |= {"low": -8, "high": 7, "wrap": 8, "outside": -(2**31), "call": 41}
    slots = {"x": x, "faults": torch.zeros(5, dtype=torch.int32)}
    outputs = {"y": out((n,), torch.int32), "faults": out((5,), torch.int32)}
    actual, wanted = checked_call("check_index", slots, outputs, attrs)
    assert actual["faults"].tolist() == wanted["faults"].tolist()
    assert (actual["faults"][0] == 42) == bool(bad)
    assert torch.equal(actual["y"][actual["y"] >= 0] % 8, x[::2][(x[::2] >= -8) & (x[::2] < 8)] % 8)


def test_an_earlier_fault_is_kept() -> None:
    attrs = {**{f"size{axis}": 1 for axis in range(4)}, "x_offset": 0, **{f"x_stride{axis}": 0 for axis in range(4)}}
    attrs |= {"low": 0, "high": 7, "wrap": 0, "outside": -1, "call": 41}
    slots = {"x": integers(1, low=9, high=10), "faults": torch.tensor([3, 1, 9, 0, 7], dtype=torch.int32)}
    outputs = {"y": out((1,), torch.int32), "faults": out((5,), torch.int32)}
    actual, _ = checked_call("check_index", slots, outputs, attrs)
    assert actual["faults"].tolist() == [3, 1, 9, 0, 7]


@pytest.mark.parametrize(("bits", "packed"), [(0, False), (4, False), (8, False), (4, True), (8, True)])
def test_an_id_outside_has_the_nearest_row(bits: int, packed: bool) -> None:
    """Of a table in pieces the first call writes every row, and the others none but their own."""
    ids = torch.tensor([[-1, 9, 8, -(2**31), 2**31 - 1, 20]], dtype=torch.int32)
    codes = integers(9, 32, low=-8, high=8, dtype=torch.int8)
    inputs: dict[str, torch.Tensor | Packed] = {"ids": ids, "table": codes.float()}
    kernel, attrs = "embedding", {}
    if bits:
        table = Packed("i4", (9, 32), pack_nibbles(codes.numpy())) if bits == 4 else codes
        inputs |= {"table": table, "scale": torch.ones(9, 1)}
        kernel, attrs = "embedding_quantized", {"row_length": 32, "group_size": 32}
    if packed:
        slots, attrs = packed_table(codes, torch.ones(9, 1), None, bits=bits)
        inputs, kernel = {"ids": ids, **slots}, "embedding_packed"
    stale = torch.full((1, 6, 32), 7.0)
    first, later = check([Case(kernel, inputs, stale, {**attrs, "first_row": row}) for row in (0, 20)])
    assert torch.equal(first[0], codes.float()[[0, 8, 8, 0, 8, 8]])
    assert torch.equal(later[0], torch.cat([stale[0, :5], codes[:1].float()]))

"""matmul (tiled and for few rows) and gated_activation."""

from __future__ import annotations

import pytest
import torch

from tests.op.calls import device_facts, expected_outputs
from tests.op.cases import Case, check, out
from tests.op.tolerance import FUNCTION_UNITS, gelu_tanh_magnitude, sum_units
from tests.op.values import base, floats, normal
from zeropoint.kernels._generated.signatures import GateOp
from zeropoint.references.bounds import STORE_ABSOLUTE, UNIT

FLOAT_DTYPES = [torch.float32, torch.float16]
SHAPES = [
    (1, 1, 1),
    (5, 3, 2),
    (31, 63, 15),
    (32, 64, 16),
    (33, 65, 17),
    (64, 128, 64),
    (70, 129, 301),
    (6, 200, 1009),
    (97, 7, 576),
]
FEW_ROWS = [(1, 1, 1), (1, 31, 33), (2, 32, 32), (3, 129, 1009), (4, 4, 2048), (4, 200, 7)]


def matmul_case(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None, algorithm: str = "") -> Case:
    """a [.., m, k] and b [.., k, n], views whose batches broadcast."""
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    full = (1,) * (2 - len(batch)) + tuple(batch)
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    left, right = a.expand(*full, m, k), b.expand(*full, k, n)
    attrs = {"m": m, "n": n, "k": k, "batch0": full[0], "batch1": full[1]}
    for slot, view, axes in (("a", left, "mk"), ("b", right, "kn")):
        names = [f"{slot}_batch_stride0", f"{slot}_batch_stride1", *(f"{slot}_stride_{axis}" for axis in axes)]
        attrs |= {f"{slot}_offset": int(view.storage_offset()), **dict(zip(names, view.stride(), strict=True))}
    inputs = {"a": base(a), "b": base(b)}
    magnitude = (a.double().abs() @ b.double().abs()).expand(*batch, m, n)
    if bias is not None:
        inputs["bias"] = bias
        magnitude = magnitude + bias.double().abs()
    y = out((*batch, m, n), a.dtype)
    return Case("matmul", inputs, y, attrs, units=sum_units(k), magnitude=magnitude, algorithm=algorithm)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_matmul(shape: tuple[int, int, int], dtype: torch.dtype, bias: bool) -> None:
    """Each operand as it is and transposed: the four ways to load tiles."""
    m, n, k = shape
    a, b = normal(m, k, dtype=dtype), normal(k, n, seed=1, dtype=dtype)
    added = normal(n, seed=2, dtype=dtype) if bias else None
    algorithm = "" if m <= 4 else "tiled" if device_facts()["is_cpu"] else "tiled_deep"
    cases = [
        matmul_case(left, right, added, algorithm)
        for left in (a, a.T.contiguous().T)
        for right in (b, b.T.contiguous().T)
    ]
    check(cases)


@pytest.mark.parametrize("shape", FEW_ROWS, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_few_rows(shape: tuple[int, int, int], dtype: torch.dtype, bias: bool) -> None:
    m, n, k = shape
    a = normal(m, k, dtype=dtype)
    added = normal(n, seed=2, dtype=dtype) if bias else None
    along = normal(n, k, seed=1, dtype=dtype).T
    across = normal(k, n + 1, seed=1, dtype=dtype)[:, :n]
    check([matmul_case(a, along, added, "few_rows_along_k"), matmul_case(a, across, added, "few_rows_across_k")])


@pytest.mark.parametrize("m", [1, 37])
def test_batches(m: int) -> None:
    """Broadcast batches, heads in the middle of a merged projection, and a key cache read transposed."""
    a, b = normal(3, 5, m, 24), normal(3, 5, 24, 41, seed=1)
    merged = normal(m, 900, seed=2)[:, 100 : 100 + 5 * 24].view(m, 5, 24).permute(1, 0, 2)
    cache = normal(5, 47, 24, seed=3)
    shared = normal(24, 70, seed=4)
    cases = [
        matmul_case(a, b),
        matmul_case(a, b[:, :1]),
        matmul_case(a[:1], b),
        matmul_case(merged, cache.transpose(-1, -2)),
        matmul_case(a, shared),
    ]
    check(cases)


def test_special_elements() -> None:
    """Infinities and NaN reach only the rows and columns they are in; padding of a tile adds nothing."""
    a, b = normal(34, 19), normal(19, 66, seed=1)
    a[3, 4], a[33, 18], b[2, 65] = float("inf"), float("nan"), float("-inf")
    case = matmul_case(a, b)
    magnitude = (a.double().abs() @ b.double().abs()).nan_to_num(0.0, 0.0, 0.0)
    check([Case(case.kernel, case.inputs, case.y, case.attrs, units=sum_units(19), magnitude=magnitude)])


def test_many_tiles_fold_into_the_grid() -> None:
    a, b = normal(33_000, 1, 2), normal(33_000, 2, 5, seed=1)
    check([matmul_case(a, b)])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 127, 1536])
def test_gated_activation(dtype: torch.dtype, length: int) -> None:
    """Two tensors, and the two halves of one merged projection."""
    gate, up = floats(7 * length, dtype=dtype).reshape(7, length), normal(7, length, seed=1, dtype=dtype)
    merged = torch.cat([normal(7, length, seed=2, dtype=dtype) * 4, up], -1)
    apart = {"row_length": length, "gate_offset": 0, "gate_row_stride": length, "up_offset": 0, "up_row_stride": length}
    halves = {**apart, "gate_row_stride": 2 * length, "up_offset": length, "up_row_stride": 2 * length}
    y = out((7, length), dtype)
    units = FUNCTION_UNITS + 2
    cases = []
    for op in GateOp:
        for g, u, attrs in ((gate, up, apart), (merged, merged, halves)):
            attrs = {**attrs, "op": int(op)}
            wanted = expected_outputs("gated_activation", {"gate": g, "up": u}, {"y": y}, attrs)["y"]
            magnitude = wanted.double().abs()
            if op is GateOp.GELU_TANH:
                magnitude = gelu_tanh_magnitude(g[:, :length]) * up.double().abs()
            # A subnormal activation may be flushed before it is multiplied.
            magnitude = magnitude + STORE_ABSOLUTE[torch.float32] / (units * UNIT) * up.double().abs()
            cases.append(Case("gated_activation", {"gate": g, "up": u}, y, attrs, units=units, magnitude=magnitude))
    check(cases)

"""Rows, products and caches so long that some drivers end a shader's loop early, and do not say so.

llvmpipe of Mesa 22 counts 65,535 iterations of all loops of an invocation and runs each later one once. What a kernel
would need more for is refused there with the reason, and right everywhere else.
"""

from __future__ import annotations

import pytest
import torch

from tests.op import attention_cases
from tests.op.blocks import Block
from tests.op.calls import checked_call, run_call
from tests.op.cases import check, ends_loops_early, out, right_or_refused, run
from tests.op.chain import Chain
from tests.op.test_attention import check as check_attention
from tests.op.test_fused_rows import check as check_block
from tests.op.test_matmul import matmul_case
from tests.op.test_rows import layer_norm_case, reduce_cases, rms_norm_case, row_case, softmax_cases
from tests.op.values import integers, normal
from zeropoint.errors import RuntimeFailure
from zeropoint.kernels._generated.signatures import ArgReduceOp, ReduceOp
from zeropoint.kernels.manifest import MOST_ITERATIONS
from zeropoint.references import OutputSpec


def spiked(n: int) -> torch.Tensor:
    """A row whose extremes stand at its end, where a loop that ended early does not come."""
    x = (normal(1, n) * 0.1 + 0.01).clamp(-1, 1)
    x[0, -1], x[0, -2] = 3.0, -3.0
    return x


@pytest.mark.parametrize(("n", "refused"), [(128 * MOST_ITERATIONS, False), (128 * 65_536, True)])
@pytest.mark.parametrize("op", ReduceOp, ids=str)
def test_reduce(op: ReduceOp, n: int, refused: bool) -> None:
    right_or_refused(lambda: check([reduce_cases(spiked(n))[op]]), refused=refused)


@pytest.mark.parametrize(("n", "refused"), [(128 * MOST_ITERATIONS, False), (128 * 65_536, True)])
def test_argmax(n: int, refused: bool) -> None:
    case = row_case("argmax_rows", spiked(n), torch.int32, op=int(ArgReduceOp.ARGMAX))
    right_or_refused(lambda: check([case]), refused=refused)


CASES = {
    "softmax_rows": lambda x: softmax_cases(x)[0],
    "layer_norm": layer_norm_case,
    "rms_norm": lambda x: rms_norm_case(x, None, 1.0),
}


@pytest.mark.parametrize(
    ("kernel", "n", "refused"),
    [
        ("softmax_rows", 128 * (MOST_ITERATIONS // 3), False),
        ("softmax_rows", 128 * 21_846, True),
        ("layer_norm", 128 * (MOST_ITERATIONS // 3), False),
        ("layer_norm", 128 * 21_846, True),
        ("rms_norm", 400_000, False),
        ("rms_norm", 256 * (MOST_ITERATIONS // 2), False),
        ("rms_norm", 256 * 32_768, True),
    ],
)
def test_rows(kernel: str, n: int, refused: bool) -> None:
    """RMS norms of which eight lanes would not see the end go to more lanes."""
    right_or_refused(lambda: check([CASES[kernel](spiked(n))]), refused=refused)


@pytest.mark.parametrize(
    ("m", "transposed", "k", "refused"),
    [
        (1, False, 4 * MOST_ITERATIONS, False),
        (1, False, 4 * 65_536, False),  # goes to a tiled algorithm
        (1, False, 16 * 65_536, True),
        (1, True, 32 * MOST_ITERATIONS, False),
        (1, True, 32 * 65_536, True),
        (5, False, 16 * MOST_ITERATIONS, False),
        (5, False, 16 * 65_536, True),
    ],
)
def test_matmul(m: int, transposed: bool, k: int, refused: bool) -> None:
    b = normal(1, k, seed=1).T if transposed else normal(k, 2, seed=1)[:, :1]
    right_or_refused(lambda: check([matmul_case(normal(m, k), b)]), refused=refused)


@pytest.mark.parametrize("queries", [1, 17])
@pytest.mark.parametrize(("keys", "refused"), [(MOST_ITERATIONS, False), (70_000, False), (3 * 65_536, True)])
def test_attention(queries: int, keys: int, refused: bool) -> None:
    case = attention_cases.Case(queries=queries, keys=keys, start=keys - queries, heads=1, head_dim=4)
    inputs = case.inputs()

    def run_it() -> None:
        result, _ = run_call("attention", inputs, {"y": OutputSpec(case.y_shape, case.dtype)}, case.attrs())
        check_attention(case, result["y"], inputs)

    right_or_refused(run_it, refused=refused)


@pytest.mark.parametrize(("n", "refused"), [(128 * MOST_ITERATIONS, False), (128 * 65_536, True)])
def test_check_index(n: int, refused: bool) -> None:
    """The last index is the bad one."""
    x = integers(n, low=0, high=8)
    x[-1] = 9
    attrs = {f"size{axis}": n if axis == 3 else 1 for axis in range(4)} | {"x_offset": 0}
    attrs |= {f"x_stride{axis}": 1 if axis == 3 else 0 for axis in range(4)}
    attrs |= {"low": 0, "high": 7, "wrap": 0, "outside": 0, "call": 41}
    slots = {"x": x, "faults": torch.zeros(5, dtype=torch.int32)}
    outputs = {"y": out((n,), torch.int32), "faults": out((5,), torch.int32)}

    def run_it() -> None:
        actual, _ = checked_call("check_index", slots, outputs, attrs)
        assert actual["faults"].tolist() == [42, n - 1, 9, 0, 7]

    right_or_refused(run_it, refused=refused)


@pytest.mark.parametrize("prologue", ["norm", "plain"])
def test_quantized_row(prologue: str) -> None:
    """400,000 elements, whose eight lanes would not see the end, quantized and multiplied."""
    block = Block(Chain(k=400_000, n=1, group_size=32), prologue)
    check_block(block, block.inputs(2), ["quantize_rows", "linear_dq8ca"])


def test_one_more_than_a_driver_is_trusted_with() -> None:
    if ends_loops_early():
        with pytest.raises(RuntimeFailure, match=r"reduce_rows: no algorithm .*shared needs"):
            run([reduce_cases(spiked(128 * MOST_ITERATIONS + 1))[ReduceOp.SUM]])

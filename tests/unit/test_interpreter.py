"""The reference interpreter: symbols, aliases, states, partly written outputs, and conversions from and to the host."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.op.chain import Chain, build, random_weights
from tests.unit.rules.lowered import lower_and_compare
from zeropoint import ProgramBuilder, ProgramError
from zeropoint.kernels._generated.signatures import BinaryOp
from zeropoint.program import Dim, SymbolOp
from zeropoint.verification.interpreter import run_reference


def copy_attrs(size: int | Dim, *, x: int | Dim = 0, y: int | Dim = 0) -> dict[str, int | float | Dim]:
    """Attributes of a strided_copy of `size` elements that follow each other, from offset x to offset y."""
    attrs: dict[str, int | float | Dim] = {"size0": 1, "size1": 1, "size2": 1, "size3": size}
    for slot, offset in (("x", x), ("y", y)):
        attrs |= {f"{slot}_offset": offset, **{f"{slot}_stride{axis}": int(axis == 3) for axis in range(4)}}
    return attrs


def add_attrs(size: int) -> dict[str, int | float | Dim]:
    """Attributes of an elementwise_binary that adds b to a."""
    attrs: dict[str, int | float | Dim] = {"op": int(BinaryOp.ADD), "alpha": 1.0}
    attrs |= {"size0": 1, "size1": 1, "size2": 1, "size3": size}
    for slot in ("a", "b"):
        attrs |= {f"{slot}_offset": 0, **{f"{slot}_stride{axis}": int(axis == 3) for axis in range(4)}}
    return attrs


def test_a_chain_of_kernels_gives_the_dequantized_linear() -> None:
    """Packed i4 weights, images, optional slots, and a symbolic number of rows."""
    chain = Chain(k=96, n=37, group_size=32, storage="image", asymmetric=True, bias=True)
    weights = random_weights(chain)
    program, constants = build(chain, weights)
    for rows in (1, 5):
        x = torch.randn(rows, chain.k, generator=torch.Generator().manual_seed(rows))
        run = run_reference(program, constants, [x])
        (y,) = run.outputs
        assert weights.bias is not None
        wanted = x.double() @ weights.dequantized().T + weights.bias.double()
        assert float((y - wanted).norm() / wanted.norm()) < 0.02
        assert run.symbols == (rows,)
        codes = next(run.tensors[i] for i, tensor in enumerate(program.tensors) if tensor.name == "q")
        assert (codes.dtype, tuple(codes.shape)) == (torch.int8, (rows, chain.k))


def test_symbols_come_from_shapes_integers_and_each_other() -> None:
    b = ProgramBuilder()
    n, start = b.symbol("n", 0, 8), b.symbol("start", 0, 16)
    area, half = b.derived(SymbolOp.PRODUCT, n, n), b.derived(SymbolOp.QUOTIENT, n, Dim(2))
    x = b.tensor("x", "f32", [Dim(1, ((2, 0),))])
    y, z = b.tensor("y", "f32", [half]), b.tensor("z", "i32", [area])
    b.input(x)
    b.input_symbol(start)
    b.call("strided_copy", {"x": x, "y": y}, copy_attrs(half, x=start))
    b.call("arange", {"y": z}, {"start": start, "step": 2})
    b.output(y)
    b.output(z, "i64")
    program, constants = b.build()
    run = run_reference(program, constants, [torch.arange(11.0), 3])
    assert run.symbols == (5, 3, 25, 2)
    assert torch.equal(run.outputs[0], torch.tensor([3.0, 4.0]))
    assert torch.equal(run.outputs[1], 3 + 2 * torch.arange(25))
    empty = run_reference(program, constants, [torch.arange(1.0), 3])
    assert [tuple(output.shape) for output in empty.outputs] == [(0,), (0,)]


def test_aliases_share_elements_and_what_nothing_wrote_is_nan() -> None:
    b = ProgramBuilder()
    x, y = b.tensor("x", "f32", [2, 3]), b.tensor("y", "f32", [8])
    table = b.alias(y, [2, 4])
    b.input(x)
    b.call("strided_copy", {"x": b.alias(x, [6]), "y": y}, copy_attrs(6, y=1))
    b.output(table)
    program, constants = b.build()
    (result,) = run_reference(program, constants, [torch.arange(6.0).reshape(2, 3)]).outputs
    assert torch.equal(result.flatten()[1:7], torch.arange(6.0))
    assert torch.isnan(result.flatten()[[0, 7]]).all()


@pytest.mark.parametrize("initial", [None, [1.0, 2.0, 3.0]], ids=["zeros", "given"])
def test_states_persist_and_start_with_their_contents(initial: list[float] | None) -> None:
    b = ProgramBuilder()
    total = b.state("total", "f32", [3], data=None if initial is None else np.asarray(initial, np.float32))
    x, y = b.tensor("x", "f32", [3]), b.tensor("y", "f32", [3])
    b.input(x)
    b.call("elementwise_binary", {"a": total, "b": x, "y": y}, add_attrs(3))
    b.call("strided_copy", {"x": y, "y": total}, copy_attrs(3))
    b.output(y)
    program, constants = b.build()
    states: dict[str, torch.Tensor] = {}
    x_value, start = torch.tensor([1.0, 10.0, 100.0]), torch.tensor(initial or [0.0, 0.0, 0.0])
    for step in (1, 2, 3):
        run = run_reference(program, constants, [x_value], states)
        assert torch.equal(run.outputs[0], start + step * x_value)
        assert torch.equal(run.states["total"], run.outputs[0])
    assert torch.equal(states["total"], start + 3 * x_value)
    assert torch.equal(run_reference(program, constants, [x_value]).outputs[0], start + x_value)


def test_column_pieces_are_joined_and_dtypes_converted() -> None:
    b = ProgramBuilder()
    x = b.tensor("x", "f32", [2, 2])
    flags, ids = b.tensor("flags", "u8", [3]), b.tensor("ids", "i32", [1])
    b.input(x, "bf16")
    b.input(flags, "boolean")
    b.input(ids, "i64")
    y = b.tensor("y", "f32", [2, 1])
    b.call("strided_copy", {"x": x, "y": y}, copy_attrs(2, x=2))
    other = b.tensor("other", "u8", [3])
    b.call("strided_copy", {"x": flags, "y": other}, copy_attrs(3))
    same = b.tensor("same", "i32", [1])
    b.call("strided_copy", {"x": ids, "y": same}, copy_attrs(1))
    b.output((x, y), "bf16")
    b.output(other, "boolean")
    b.output(same, "i64")
    program, constants = b.build()
    rows = torch.tensor([[1.5, 2.5], [3.5, 4.5]]).bfloat16()
    bools, numbers = torch.tensor([True, False, True]), torch.tensor([2**31 - 1])
    wide, same_bools, same_numbers = run_reference(program, constants, [rows, bools, numbers]).outputs
    assert torch.equal(wide, torch.cat([rows, rows[1].reshape(2, 1)], -1))
    assert torch.equal(same_bools, bools)
    assert torch.equal(same_numbers, numbers)
    with pytest.raises(ProgramError, match=r"^input\[2\]: an i64 value beyond 32 bits; the device has i32$"):
        run_reference(program, constants, [rows, bools, torch.tensor([2**31])])


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([], r"^0 inputs; the program has 1$"),
        ([3], r"^input\[0\]: int; need a tensor$"),
        ([torch.zeros(9, 4)], r"^symbol n: 9; need \[1, 8\]$"),
        ([torch.zeros(2, 5)], r"^input\[0\]: torch.float32 \[2, 5\]; need torch.float32 \[2, 4\]$"),
        ([torch.zeros(2)], r"^input\[0\]: torch.float32 \[2\]; need torch.float32 \[2, 4\]$"),
        ([torch.zeros(2, 4).half()], r"^input\[0\]: torch.float16 \[2, 4\]; need torch.float32 \[2, 4\]$"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: list[torch.Tensor | int], text: str) -> None:
    b = ProgramBuilder()
    x = b.tensor("x", "f32", [b.symbol("n", 1, 8), 4])
    b.input(x)
    b.output(x)
    program, constants = b.build()
    with pytest.raises(ProgramError, match=text):
        run_reference(program, constants, inputs)


def test_a_module_lowers_alike_in_both_dialects() -> None:
    from tests.e2e.models import Activations, Linears, Weights

    module = Linears(64, Activations(), (Weights(n=24, group_size=32, bias=True),))
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    found = lower_and_compare(module, (x,))
    assert found.kernels() == ["quantize_rows", "linear_dq8ca"]
    assert math.prod(found.runs["edge"][0].outputs[0].shape) == 72


def test_a_module_with_a_cache_keeps_it_from_run_to_run() -> None:
    class Total(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.tensor([1.0, 2.0, 3.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return self.total * 2.0

    found = lower_and_compare(Total(), (torch.tensor([1.0, 10.0, 100.0]),))
    assert [run.outputs[0].tolist() for run in found.runs["aten"]] == [
        [4.0, 24.0, 206.0], [6.0, 44.0, 406.0], [8.0, 64.0, 606.0]
    ]  # fmt: skip

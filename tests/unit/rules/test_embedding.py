"""Embeddings of float and of quantized tables against eager PyTorch."""

from __future__ import annotations

import executorch.exir.passes._quant_patterns_and_replacements  # noqa: F401  registers the embedding operators
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional
from torchao.quantization.quant_primitives import dequantize_affine

from tests.unit.rules.general import check, refusals
from zeropoint import CompileOptions
from zeropoint.lowering.options import MIB
from zeropoint.rules.embedding import pack_rows

SMALL = CompileOptions(max_binding_bytes=MIB)


def test_float_tables() -> None:
    table = torch.randn(50, 12)
    check(lambda ids: functional.embedding(ids, table), torch.randint(0, 50, (2, 7)))
    ids = torch.randint(0, 9, (2, 5)).int()
    check(lambda ids, table: functional.embedding(ids[:, 1:], table), ids, torch.randn(9, 3))
    check(nn.Embedding(20, 5, padding_idx=3), torch.tensor([3, 0, 19]))


def test_dynamic_sizes() -> None:
    check(
        nn.Embedding(20, 5), torch.randint(0, 20, (2, 3)), dynamic_shapes=({1: Dim("length", min=1, max=9)},),
        calls=[(torch.randint(0, 20, (2, n)),) for n in (1, 9)],
    )  # fmt: skip


def test_a_table_larger_than_a_binding() -> None:
    result = check(nn.Embedding(9000, 64), torch.tensor([[0, 4095, 4096, 8999]]), options=SMALL, half=False)
    assert result.kernels() == ["embedding"] * 3


class Quantized(nn.Module):
    """A table of codes, dequantized as torchao does."""

    def __init__(self, *, bits: int, group_size: int, rows: int = 40, width: int = 24, zeros: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.high = -(1 << bits - 1), (1 << bits - 1) - 1
        groups = (rows, width // group_size)
        self.block = (1, group_size)
        self.register_buffer("codes", torch.randint(self.low, self.high + 1, (rows, width), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(groups) + 0.1)
        self.register_buffer("zero", torch.randint(self.low, self.high, groups, dtype=torch.int8) * zeros)

    def table(self) -> Tensor:
        args = (self.codes, self.block, self.scale, self.zero, torch.int8, self.low, self.high)
        found: Tensor = dequantize_affine(*args, output_dtype=torch.float32)
        return found

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.table())


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 24), (4, 8), (8, 12), (8, 24)])
def test_dequantized_tables(bits: int, group_size: int, zeros: bool) -> None:
    module = Quantized(bits=bits, group_size=group_size, zeros=zeros)
    result = check(module, torch.randint(0, 40, (2, 5)))
    assert result.kernels() == ["embedding_quantized"]
    for program in result.programs.values():
        (table,) = [arg.tensor for arg in program.calls[-1].args if arg.slot == "table"]
        assert program.tensors[table].dtype.value == f"i{bits}"


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("bits", "width", "group_size"), [(4, 64, 32), (4, 96, 96), (8, 32, 8), (8, 256, 256)])
def test_tables_packed_as_a_linear_s_weight(bits: int, width: int, group_size: int, zeros: bool) -> None:
    """Where that takes no more room."""
    result = check(Quantized(bits=bits, group_size=group_size, width=width, zeros=zeros), torch.randint(0, 40, (2, 5)))
    assert result.kernels() == ["embedding_packed"]


class Tied(Quantized):
    """A decoder's ends: its table is its last linear, too."""

    def forward(self, ids: Tensor) -> Tensor:
        return functional.linear(functional.embedding(ids, self.table()), self.table())


@pytest.mark.parametrize("rows", [40, 9000])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_table_that_is_a_linear_too_is_stored_once(rows: int, zeros: bool) -> None:
    """In as many pieces, where it is larger than a binding."""
    module = Tied(bits=8, group_size=32, rows=rows, width=256, zeros=zeros)
    module.scale.mul_(1e-3)  # sums of 256 products, to be compared within 1e-5
    result = check(module, torch.tensor([[0, 1, rows - 1]]), options=SMALL, half=False)
    n_pieces = 3 if rows == 9000 else 1
    assert result.kernels().count("embedding_packed") == result.kernels().count("linear_qgsw") == n_pieces
    for program in result.programs.values():
        keys = [
            [program.tensors[call.tensor(slot)].constant for call in program.calls if call.kernel == kernel]
            for kernel in ("embedding_packed", "linear_qgsw")
            for slot in ("w", "w_scale")
        ]
        assert keys[:2] == keys[2:]
        assert len(set(keys[0])) == n_pieces


def test_odd_rows_are_padded() -> None:
    check(Quantized(bits=4, group_size=7, width=21), torch.randint(0, 40, (6,)))
    codes = torch.tensor([[1, -2, 7], [-8, 3, 0]], dtype=torch.int8)
    assert pack_rows(codes, 4).tolist() == [[0xE1, 0x07], [0x38, 0x00]]


def test_a_quantized_table_larger_than_a_binding() -> None:
    for width, kernel in ((64, "embedding_packed"), (60, "embedding_quantized")):
        module = Quantized(bits=4, group_size=width, rows=40_000, width=width)
        result = check(module, torch.tensor([0, 19_999, 20_000, 39_999]), options=SMALL, half=False)
        assert result.kernels() == [kernel] * 2


class Packed(nn.Module):
    """A table as ExecuTorch's own quantizer leaves it."""

    def __init__(self, name: str, dtype: torch.dtype, *, groups: int = 3, zero: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name, width = name, 24
        low, high = (0, 256) if dtype is torch.uint8 else (-128, 128)
        length = width if name == "embedding_byte" else width // 2
        self.register_buffer("codes", torch.randint(low, high, (20, length), dtype=dtype))
        self.register_buffer("scale", torch.rand(20, groups) + 0.1)
        self.register_buffer("zero", None if zero is None else torch.full((20, groups), zero))

    def forward(self, ids: Tensor) -> Tensor:
        operator = getattr(torch.ops.quantized_decomposed, self.name).default
        limits = (-128, 127) if self.name == "embedding_byte" else (-8, 7)
        found: Tensor = operator(self.codes, self.scale, self.zero, *limits, ids)
        return found


@pytest.mark.parametrize("zero", [None, 0.0, -3.0])
@pytest.mark.parametrize(("name", "dtype"), [("embedding_byte", torch.int8), ("embedding_4bit", torch.uint8)])
def test_tables_of_executorch(name: str, dtype: torch.dtype, zero: float | None) -> None:
    module = Packed(name, dtype, zero=zero)
    for dialect in ("aten", "edge"):
        assert check(module, torch.randint(0, 20, (2, 3)), dialects=(dialect,)).kernels() == ["embedding_quantized"]


@pytest.mark.parametrize(
    ("module", "inputs", "reason"),
    [
        (Packed("embedding_byte", torch.uint8), (torch.tensor([1]),), "codes is torch.uint8; offered torch.int8"),
        (Packed("embedding_byte", torch.int8, zero=0.5), (torch.tensor([1]),),
         "zero points zero of a table are not all integers from -128 to 127"),
        (nn.Embedding(2, 300_000), (torch.tensor([1]),),
         "weight: one row takes 1200000 bytes; max_binding_bytes 1048576"),
    ],
)  # fmt: skip
def test_refusals(module: nn.Module, inputs: tuple[Tensor, ...], reason: str) -> None:
    found = refusals(module, *inputs, options=SMALL)
    assert any(reason in text for text in found), found


def test_tables_that_are_not_constant() -> None:
    def forward(codes: Tensor, scale: Tensor, ids: Tensor) -> Tensor:
        table = dequantize_affine(codes, (1, 8), scale, None, torch.int8, -128, 127)
        return functional.embedding(ids, table)

    found = refusals(forward, torch.ones(5, 8, dtype=torch.int8), torch.ones(5, 1), torch.tensor([1]))
    assert any("input inputs_0 is not a constant" in text for text in found), found
    packed = Packed("embedding_byte", torch.int8)
    found = refusals(
        lambda codes, scale, ids: torch.ops.quantized_decomposed.embedding_byte(codes, scale, None, -128, 127, ids),
        packed.codes, packed.scale, torch.tensor([1]),
    )  # fmt: skip
    assert any("table's weight inputs_0 is not a constant" in text for text in found), found


def test_tables_dequantized_otherwise() -> None:
    codes = torch.randint(-128, 127, (6, 8), dtype=torch.int8)

    def forward(ids: Tensor) -> Tensor:
        table = torch.ops.quantized_decomposed.dequantize_per_tensor.default(codes, 0.1, 0, -128, 127, torch.int8)
        return functional.embedding(ids, table)

    found = refusals(forward, torch.tensor([1]))
    assert any("is quantized_decomposed.dequantize_per_tensor.default; offered constants" in text for text in found), (
        found
    )

"""The shape rules give what torchao's own bodies give on fake tensors, and leave no trace."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import zeropoint
from zeropoint.llm.shape_rules import quick_shapes

INT8 = (torch.int8, -128, 127)
CHOOSE = [
    ("ASYMMETRIC", [1, 1, 64], *INT8, None, None, torch.int8),
    ("ASYMMETRIC", [1, 1, 64], *INT8, 1e-6, torch.float64, None),
    ("ASYMMETRIC", [1, 1, 64], *INT8, None, None, torch.float32, True),
    ("ASYMMETRIC", [2, 5, 64], *INT8),
    ("SYMMETRIC", [1, 1, 32], *INT8, None, None, None),
    ("SYMMETRIC", [1, 1, 1], *INT8, None, torch.float32, torch.int32),
]


def described(tensors: object) -> list[tuple[torch.Size, torch.dtype, tuple[int, ...]]]:
    found = tensors if isinstance(tensors, tuple) else (tensors,)
    return [(t.shape, t.dtype, t.stride()) for t in found]


def both_ways(call: object, *shapes: tuple[tuple[int, ...], torch.dtype]) -> None:
    with FakeTensorMode():
        arguments = [torch.empty(shape, dtype=dtype) for shape, dtype in shapes]
        wanted = described(call(*arguments))
        with quick_shapes():
            assert described(call(*arguments)) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arguments", CHOOSE, ids=str)
def test_choose_qparams(arguments: tuple[object, ...], dtype: torch.dtype) -> None:
    both_ways(lambda x: torch.ops.torchao.choose_qparams_affine(x, *arguments), ((2, 5, 64), dtype))


def test_quantize() -> None:
    both_ways(
        lambda x, s, z: torch.ops.torchao.quantize_affine(x, [1, 64], s, z, *INT8),
        ((5, 64), torch.float32), ((5,), torch.float32), ((5,), torch.int8),
    )  # fmt: skip


@pytest.mark.parametrize("output", [torch.float32, torch.float16])
def test_dequantize(output: torch.dtype) -> None:
    both_ways(
        lambda q, s, z: torch.ops.torchao.dequantize_affine(q, [1, 32], s, z, *INT8, output_dtype=output),
        ((5, 64), torch.int8), ((5, 2), torch.float32), ((5, 2), torch.int8),
    )  # fmt: skip


def test_real_tensors_are_computed_and_the_rules_go_away() -> None:
    x = torch.randn(5, 64)
    wanted = torch.ops.torchao.choose_qparams_affine(x, *CHOOSE[0][:1], [1, 64], *CHOOSE[0][2:])
    with quick_shapes():
        inside = torch.ops.torchao.choose_qparams_affine(x, *CHOOSE[0][:1], [1, 64], *CHOOSE[0][2:])
    after = torch.ops.torchao.choose_qparams_affine(x, *CHOOSE[0][:1], [1, 64], *CHOOSE[0][2:])
    for found in (inside, after):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_exported_graph_is_the_same() -> None:
    model = torch.nn.Linear(64, 24).eval()
    zeropoint.quantize(model)
    example, shapes = (torch.randn(2, 3, 64),), ({1: torch.export.Dim("length", min=1, max=9)},)
    wanted = torch.export.export(model, example, dynamic_shapes=shapes).run_decompositions({})
    with quick_shapes():
        found = torch.export.export(model, example, dynamic_shapes=shapes).run_decompositions({})
    assert str(found.graph) == str(wanted.graph)

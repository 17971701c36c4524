"""Fusion asks no question that walks the whole Program: twice the layers take twice the work."""

from __future__ import annotations

import pytest

from tests.op.blocks import Block
from tests.op.chain import Chain
from zeropoint import CompileOptions, ProgramBuilder
from zeropoint.fusion import fuse

CHAIN = Chain(k=64, n=64, group_size=32)


def layers(count: int) -> ProgramBuilder:
    """Norm, quantization and linear, one after another."""
    b = ProgramBuilder()
    rows = b.symbol("rows", 1, 8)
    h = b.tensor("x", "f32", [rows, CHAIN.k])
    b.input(h)
    for _ in range(count):
        block = Block(CHAIN, "norm")
        h = block._linear(b, block._prologue(b, h, rows), rows, CHAIN)
    b.output(h)
    return b


def questions(count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often fusion looks at a tensor."""
    b, asked = layers(count), 0
    real = ProgramBuilder.tensor_info

    def counted(self: ProgramBuilder, tensor: int) -> object:
        nonlocal asked
        asked += 1
        return real(self, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(ProgramBuilder, "tensor_info", counted)
        draft = fuse(b, CompileOptions())
    assert len(draft.alternatives) == count
    return asked


def test_fusion_grows_with_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = questions(8, monkeypatch), questions(16, monkeypatch)
    assert 1.9 * few < many < 2.1 * few

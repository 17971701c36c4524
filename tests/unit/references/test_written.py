"""Kernels that write a part of an output say which."""

from __future__ import annotations

import torch

from tests.op.values import size_attrs, view_attrs
from zeropoint.references import OutputSpec, find_reference, find_written

SPEC = {"y": OutputSpec((3, 4), torch.float32)}


def test_a_kernel_that_writes_everything_has_no_mask() -> None:
    assert find_written("elementwise_unary") is None


def test_a_copy_into_a_slice() -> None:
    y = torch.zeros(3, 4)[1:, ::2]
    attrs = size_attrs(y.shape) | view_attrs("x", torch.ones(2, 2)) | view_attrs("y", y)
    written = find_written("strided_copy")
    assert written is not None
    (mask,) = written({"x": torch.ones(2, 2)}, attrs, SPEC).values()
    assert mask.int().tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]]
    assert find_reference("strided_copy")({"x": torch.ones(2, 2)}, attrs, SPEC)["y"].tolist() == mask.int().tolist()


def test_a_piece_of_a_vocabulary() -> None:
    ids = torch.tensor([7, 2, 9], dtype=torch.int32)
    tables = {"embedding": "table", "embedding_quantized": "table", "embedding_packed": "w_scale"}
    for kernel, slot in tables.items():
        inputs = {"ids": ids, slot: torch.ones(3, 4) if slot == "table" else torch.ones(1, 3)}
        written = find_written(kernel)
        assert written is not None
        (mask,) = written(inputs, {"first_row": 7}, SPEC).values()
        assert mask[:, 0].tolist() == [True, False, True]

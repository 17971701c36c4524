"""The first elements of each piece of a row in order, and their indices."""

from __future__ import annotations

import math

import torch

from ..kernels._generated.signatures import SIGNATURES, TopkOp
from . import Attrs, Outputs, Tensors
from .bounds import exact
from .strides import rows

PIECE = SIGNATURES["topk_rows"].constants["PIECE"]


def reference(inputs: Tensors, attrs: Attrs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Rows of x [row_length], and `from` of as many -> y and index [rows, pieces, k]; index -1 where there is none."""
    length, k, spec = int(attrs["row_length"]), int(attrs["k"]), outputs["y"]
    n_pieces, largest = -(-length // PIECE), TopkOp(int(attrs["op"])) is TopkOp.LARGEST
    x = rows(inputs["x"], attrs, math.prod(spec.shape) // k // n_pieces)
    given = torch.arange(length, dtype=torch.int32).expand(x.shape)
    if "from" in inputs:
        given = inputs["from"].reshape(x.shape)
    values, places = [], []
    for piece, indices in zip(torch.split(x, PIECE, -1), torch.split(given, PIECE, -1), strict=True):
        # By value first; then those that are there come first, which keeps the order of the others.
        order = piece.sort(dim=-1, stable=True, descending=largest).indices
        there = indices.gather(-1, order) >= 0
        order = order.gather(-1, there.to(torch.int8).sort(dim=-1, stable=True, descending=True).indices)[..., :k]
        there = indices.gather(-1, order) >= 0
        missing = k - order.shape[-1]
        values.append(torch.nn.functional.pad(piece.gather(-1, order).where(there, 0), (0, missing)))
        places.append(torch.nn.functional.pad(indices.gather(-1, order).where(there, -1), (0, missing), value=-1))
    return {"y": torch.cat(values, -1).reshape(spec.shape), "index": torch.cat(places, -1).reshape(spec.shape)}


tolerance = exact

"""Weights that files hold quantized, put into a model as they are.

Which row of a file's matrices makes which row of the model's weights is found by the rows' values: a row of a linear
that equals, bit for bit, a dequantized row of the file is that row. So there is no table of names and permutations
here, and what transformers changed on its way is noticed by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import nn

from ..quantization.exact_weights import exact_weight


@dataclass(frozen=True, slots=True)
class Integers:
    """Rows of a weight that is scales * (codes - zeros) - terms.

    codes int8 [N, K]; scales f32 [N, K / group]; zeros int8 or terms f32 alike, or neither. n_rounded: groups whose
    term float32 does not hold exactly.
    """

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    terms: npt.NDArray[np.float32] | None = None
    zeros: npt.NDArray[np.int8] | None = None
    n_rounded: int = 0

    @staticmethod
    def joined(parts: Sequence[Integers], order: Sequence[int]) -> Integers:
        """The rows of several parts, which all have the same kind of zeros, in the order that is given."""

        def rows(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
            return np.ascontiguousarray(np.concatenate(arrays)[order])

        terms = [part.terms for part in parts if part.terms is not None]
        zeros = [part.zeros for part in parts if part.zeros is not None]
        return Integers(
            rows([part.codes for part in parts]),
            rows([part.scales for part in parts]),
            rows(terms) if terms else None,
            rows(zeros) if zeros else None,
            sum(part.n_rounded for part in parts),
        )


class Matrix(Protocol):
    """A quantized matrix of a file.

    kind: what its format calls it. bits: of its integers as they are kept, 4 or 8; None where they cannot be.
    how: what is kept, in words. offset: whether it has zero points or zero terms.
    """

    @property
    def kind(self) -> str: ...
    @property
    def bits(self) -> int | None: ...
    @property
    def how(self) -> str: ...
    @property
    def offset(self) -> bool: ...

    def values(self) -> npt.NDArray[np.float32]:
        """Dequantized, [N, K]."""

    def rows(self, indices: Sequence[int]) -> Integers:
        """Integers, scales and zeros of some rows."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What keep_weights did with one weight. source: matrices of the file; why: None when it was kept."""

    weight: str
    source: str
    types: str
    how: str = ""
    n_rounded: int = 0
    why: str | None = None


@dataclass(frozen=True, slots=True)
class KeptTable:
    """Prints as one line for each type that was kept, and one for each weight that was not."""

    rows: tuple[Kept, ...]

    @property
    def kept(self) -> tuple[Kept, ...]:
        return tuple(row for row in self.rows if row.why is None)

    def __str__(self) -> str:
        lines = []
        for (kind, how), count in Counter((row.types, row.how) for row in self.kept).items():
            rounded = sum(row.n_rounded for row in self.kept if (row.types, row.how) == (kind, how))
            exact = f", {rounded} zero terms rounded to float32" if rounded else ""
            lines.append(f"kept exactly: {count} weights of {kind} ({how}){exact}")
        lines += [f"not kept: {row.weight} of {row.source} ({row.types}): {row.why}" for row in self.rows if row.why]
        return "\n".join(lines)


def keep_weights(
    model: nn.Module, matrices: Mapping[str, Matrix], *, skip: Callable[[str], bool] = lambda name: False
) -> KeptTable:
    """Puts a file's own integers in the place of the dequantized weights of linears and embeddings.

    matrices: by the file's names. skip: names of weights that stay in float, for another quantization. Weights that no
    matrix makes stay in float, too; the table says why.
    """
    rows = _Rows(matrices)
    found = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and not skip(f"{name}.weight"):
            found.append(_keep(f"{name}.weight", module, rows))
    return KeptTable(tuple(found))


def _keep(name: str, module: nn.Linear | nn.Embedding, rows: _Rows) -> Kept:
    is_table = isinstance(module, nn.Embedding)
    places = rows.find(module.weight)
    names = sorted({place[0] for place in places if place is not None})
    found = [rows.matrices[item] for item in names]
    kinds = sorted({matrix.kind for matrix in found})
    source, types = ", ".join(names) or "no quantized matrix", ", ".join(kinds) or "float"
    why = ""
    if not names:
        why = "its rows are in float, or transformers changes them"
    elif None in places:
        why = "some of its rows are none of the file's"
    elif len({(matrix.kind, matrix.how) for matrix in found}) > 1:
        why = "it has rows of several types"
    elif found[0].bits is None:
        why = "no integers of 4 or 8 bits"
    elif is_table and found[0].offset:
        why = "tables have no zero points"
    if why:
        return Kept(name, source, types, why=f"{why}; it is quantized anew")
    made = rows.gather([place for place in places if place is not None])
    weight = exact_weight(
        torch.from_numpy(made.codes),
        torch.from_numpy(made.scales),
        None if made.terms is None else torch.from_numpy(made.terms),
        zeros=None if made.zeros is None else torch.from_numpy(made.zeros),
        bits=found[0].bits or 0,
        dynamic=not is_table,
    )
    module.weight = nn.Parameter(weight, requires_grad=False)
    return Kept(name, source, types, found[0].how, made.n_rounded)


class _Rows:
    """The rows of all quantized matrices of a file, by a hash of their dequantized values."""

    def __init__(self, matrices: Mapping[str, Matrix]) -> None:
        self.matrices = matrices
        self._places: dict[bytes, tuple[str, int]] = {}
        for name, matrix in matrices.items():
            for index, digest in enumerate(_digests(matrix.values())):
                self._places.setdefault(digest, (name, index))

    def find(self, weight: torch.Tensor) -> list[tuple[str, int] | None]:
        """Of each row of a weight the matrix and the row in it that make it."""
        return [self._places.get(digest) for digest in _digests(weight.detach().numpy())]

    def gather(self, places: list[tuple[str, int]]) -> Integers:
        """Rows that lie in matrices of one type, in this order."""
        order: dict[str, list[tuple[int, int]]] = {}
        for target, (name, index) in enumerate(places):
            order.setdefault(name, []).append((target, index))
        parts: list[Integers] = []
        targets: list[int] = []
        for name, pairs in order.items():
            parts.append(self.matrices[name].rows([index for _, index in pairs]))
            targets += [target for target, _ in pairs]
        return Integers.joined(parts, list(np.argsort(targets)))


def _digests(values: npt.NDArray[np.float32]) -> Iterator[bytes]:
    values = np.ascontiguousarray(values, np.float32)
    for row in values:
        yield xxhash.xxh3_128_digest(row.data)

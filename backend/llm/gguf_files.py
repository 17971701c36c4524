"""GGUF files: transformers maps their names and makes the model, and what is already quantized is kept as it is.

Which block belongs to which row of the model's weights is found by the rows' values: a row of a linear that equals,
bit for bit, a dequantized row of the file is that row. So there is no table of names and permutations here, and what
transformers changed on its way is noticed by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..exact_weights import exact_weight
from ..gguf_blocks import TYPES, Blocks, read_blocks
from .checkpoints import check_complete, exportable, keep_layers, one_line

_FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class GgufFile:
    """A decoder in a .gguf file."""

    path: Path
    recipe: str | None = None
    reads_embeddings: bool = False

    @property
    def name(self) -> str:
        return self.path.stem

    def config(self, *, n_layers: int | None = None) -> PreTrainedConfig:
        """Of the model, or of its first layers. Raises OptionError on a file that transformers does not read."""
        with one_line(str(self.path)):
            config: PreTrainedConfig = AutoConfig.from_pretrained(self.path.parent, gguf_file=self.path.name)
        if n_layers is not None:
            keep_layers(config, n_layers)
        return config

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """With the chat template of the file."""
        with one_line(str(self.path)):
            found = AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)
        assert isinstance(found, PreTrainedTokenizerFast)  # what transformers makes of every GGUF file
        return found

    def load(self, *, n_layers: int | None = None) -> PreTrainedModel:
        """The decoder in float32, dequantized."""
        config = self.config(n_layers=n_layers)
        with one_line(str(self.path)):
            loaded, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
                self.path.parent,
                gguf_file=self.path.name,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **exportable(config),
            )
        model: PreTrainedModel = loaded  # type: ignore[has-type]
        check_complete(str(self.path), info)  # type: ignore[has-type]
        return model

    @cached_property
    def tensors(self) -> dict[str, gguf.ReaderTensor]:
        """By the file's names. Raises OptionError on a file that the gguf package does not read."""
        with one_line(str(self.path)):
            return {tensor.name: tensor for tensor in gguf.GGUFReader(self.path).tensors}

    def types(self) -> Counter[str]:
        """How many tensors of each type, as ggml spells them."""
        return Counter(tensor.tensor_type.name for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Kept:
    """What keep_blocks did with one weight. source: tensors of the file; types: theirs; why: None when it was kept."""

    weight: str
    source: str
    types: str
    n_groups: int = 0
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
        for kind, count in Counter(row.types for row in self.kept).items():
            block = TYPES[kind.lower()]
            how = f"int{block.bits}, groups of {block.group_size}" + (", float zero terms" if block.has_terms else "")
            rounded = sum(row.n_rounded for row in self.kept if row.types == kind)
            exact = f", {rounded} zero terms rounded to float32" if rounded else ""
            lines.append(f"kept exactly: {count} weights of {kind} ({how}){exact}")
        lines += [f"not kept: {row.weight} of {row.source} ({row.types}): {row.why}" for row in self.rows if row.why]
        return "\n".join(lines)


def keep_blocks(model: nn.Module, file: GgufFile, *, skip: Callable[[str], bool] = lambda name: False) -> KeptTable:
    """Puts the file's own integers in the place of the dequantized weights of linears and embeddings.

    skip: names of weights that stay in float, for another quantization. Weights that no block makes stay in float, too;
    the table says why.
    """
    rows = _Rows(file)
    found = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and not skip(f"{name}.weight"):
            found.append(_keep(f"{name}.weight", module, rows))
    return KeptTable(tuple(found))


def _keep(name: str, module: nn.Linear | nn.Embedding, rows: _Rows) -> Kept:
    is_table = isinstance(module, nn.Embedding)
    places = rows.find(module.weight)
    names = sorted({place[0] for place in places if place is not None})
    kinds = sorted({rows.kind(item) for item in names})
    source, types = ", ".join(names) or "no quantized tensor", ", ".join(kinds) or "float"
    instead = "stays float32" if is_table else "is quantized anew"
    why = ""
    if not names:
        why = "its rows are in float, or transformers changes them"
    elif None in places:
        why = "some of its rows are none of the file's"
    elif len(kinds) > 1:
        why = "it has rows of several types"
    elif kinds[0].lower() not in TYPES:
        why = "no integers of 4 or 8 bits"
    elif is_table and TYPES[kinds[0].lower()].has_terms:
        why = "tables have no float zero terms"
    if why:
        return Kept(name, source, types, why=f"{why}; it {instead}")
    block = TYPES[kinds[0].lower()]
    codes, scales, terms, n_rounded = rows.gather([place for place in places if place is not None])
    weight = exact_weight(codes, scales, terms, bits=block.bits, dynamic=not is_table)
    module.weight = nn.Parameter(weight, requires_grad=False)
    return Kept(name, source, types, scales.numel(), n_rounded)


class _Rows:
    """The rows of all quantized matrices of a file, by a hash of their dequantized values."""

    def __init__(self, file: GgufFile) -> None:
        self._tensors = {
            name: tensor
            for name, tensor in file.tensors.items()
            if len(tensor.shape) == 2 and tensor.tensor_type.name not in _FLOATS
        }
        self._places: dict[bytes, tuple[str, int]] = {}
        for name, tensor in self._tensors.items():
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            for index, digest in enumerate(_digests(values)):
                self._places.setdefault(digest, (name, index))

    def kind(self, name: str) -> str:
        return str(self._tensors[name].tensor_type.name)

    def find(self, weight: torch.Tensor) -> list[tuple[str, int] | None]:
        """Of each row of a weight the tensor and the row in it that make it."""
        return [self._places.get(digest) for digest in _digests(weight.detach().numpy())]

    def gather(self, places: list[tuple[str, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, int]:
        """Codes, scales, terms of rows that lie in tensors of one type; groups whose term was rounded."""
        order: dict[str, list[tuple[int, int]]] = {}
        for target, (name, index) in enumerate(places):
            order.setdefault(name, []).append((target, index))
        parts: list[Blocks] = []
        targets: list[int] = []
        for name, pairs in order.items():
            tensor = self._tensors[name]
            raw = np.asarray(tensor.data)[[index for _, index in pairs]]
            parts.append(read_blocks(raw, tensor.tensor_type.name.lower()))
            targets += [target for target, _ in pairs]
        back = np.argsort(targets)

        def joined(arrays: list[npt.NDArray[np.generic]]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(np.concatenate(arrays)[back]))

        terms = [part.terms for part in parts if part.terms is not None]
        return (
            joined([part.codes for part in parts]),
            joined([part.scales for part in parts]),
            joined(list(terms)) if terms else None,
            sum(part.n_rounded for part in parts),
        )


def _digests(values: npt.NDArray[np.float32]) -> Iterator[bytes]:
    values = np.ascontiguousarray(values, np.float32)
    for row in values:
        yield xxhash.xxh3_128_digest(row.data)

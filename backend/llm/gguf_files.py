"""GGUF files: transformers maps their names and makes the model; see kept_weights.py for what is already quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..quantization.gguf_blocks import TYPES, BlockType, read_blocks
from .checkpoints import check_complete, exportable, keep_layers, one_line
from .gguf_settings import complete_config
from .kept_weights import Integers, Matrix

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
        with self._parsed_once():
            config: PreTrainedConfig = AutoConfig.from_pretrained(self.path.parent, gguf_file=self.path.name)
        complete_config(config, self.reader, str(self.path))
        if n_layers is not None:
            keep_layers(config, n_layers)
        return config

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """With the chat template of the file."""
        with self._parsed_once():
            found = AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)
        assert isinstance(found, PreTrainedTokenizerFast)  # what transformers makes of every GGUF file
        return found

    def load(self, *, n_layers: int | None = None) -> PreTrainedModel:
        """The decoder in float32, dequantized."""
        config = self.config(n_layers=n_layers)
        with self._parsed_once():
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

    @contextmanager
    def _parsed_once(self) -> Iterator[None]:
        """For what transformers does with the file: it would parse all of it for each answer, and make the table of an
        architecture's names for each module. Not for several threads at once."""
        parse, names, reader = gguf.GGUFReader, gguf.get_tensor_name_map, self.reader
        gguf.GGUFReader, gguf.get_tensor_name_map = lambda *_: reader, cache(names)  # type: ignore[misc, assignment]
        try:
            with one_line(str(self.path)):
                yield
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map = parse, names  # type: ignore[misc]

    @cached_property
    def reader(self) -> gguf.GGUFReader:
        """Raises OptionError on a file that the gguf package does not read."""
        with one_line(str(self.path)):
            return gguf.GGUFReader(self.path)

    @cached_property
    def tensors(self) -> dict[str, gguf.ReaderTensor]:
        """By the file's names. Raises OptionError on a file that the gguf package does not read."""
        return {tensor.name: tensor for tensor in self.reader.tensors}

    def types(self) -> Counter[str]:
        """How many tensors of each type, as ggml spells them."""
        return Counter(tensor.tensor_type.name for tensor in self.tensors.values())

    def matrices(self) -> dict[str, Matrix]:
        """The quantized ones, by the file's names."""
        return {
            name: GgufMatrix(tensor)
            for name, tensor in self.tensors.items()
            if len(tensor.shape) == 2 and tensor.tensor_type.name not in _FLOATS
        }


@dataclass(frozen=True, slots=True)
class GgufMatrix:
    """A quantized tensor of two dimensions."""

    tensor: gguf.ReaderTensor

    @property
    def kind(self) -> str:
        return str(self.tensor.tensor_type.name)

    @property
    def block(self) -> BlockType | None:
        return TYPES.get(self.kind.lower())

    @property
    def bits(self) -> int | None:
        return None if self.block is None else self.block.bits

    @property
    def offset(self) -> bool:
        return self.block is not None and self.block.has_terms

    @property
    def how(self) -> str:
        if self.block is None:
            return ""
        zeros = ", float zero terms" if self.block.has_terms else ""
        return f"int{self.block.bits}, groups of {self.block.group_size}{zeros}"

    def values(self) -> npt.NDArray[np.float32]:
        dequantized: npt.NDArray[np.float32] = gguf.dequantize(self.tensor.data, self.tensor.tensor_type)
        return dequantized

    def rows(self, indices: Sequence[int]) -> Integers:
        found = read_blocks(np.asarray(self.tensor.data)[indices], self.kind.lower())
        return Integers(found.codes, found.scales, found.terms, None, found.n_rounded)

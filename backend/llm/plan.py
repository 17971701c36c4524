"""What an export would read and write, without reading weights: the model is built without memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor
from transformers import PreTrainedConfig

from ..lowering.packing import Layout
from ..quantization.gguf_blocks import TYPES
from .checkpoints import Checkpoint, check_generates, classes_of, exportable, one_line, plain_linears
from .export import (
    DEFAULT_RECIPE,
    FLOAT_TABLE,
    TextExportOptions,
    check_positions,
    embedding_recipe,
    head_recipe,
    tables_of,
)
from .gguf_files import GgufFile
from .models import Source, TextModel, gguf_of
from .packed_checkpoints import PackedMatrix
from .seq2seq import is_seq2seq, source_positions

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """Prints as what `zeropoint export --dry-run` says. rows: what, how, parameters and bytes in the .pte.

    cache_bytes: of the KV cache, in the device's memory alone.
    """

    reads: str
    rows: tuple[tuple[str, str, int, int], ...]
    cache_bytes: int

    @property
    def size_bytes(self) -> int:
        """Of the .pte, but for its graph: some 100 KB."""
        return sum(size for *_, size in self.rows)

    def __str__(self) -> str:
        lines = [f"reads: {self.reads}"]
        for what, how, count, size in self.rows:
            lines.append(f"{what}: {how}, {count:,} parameters, {size / 1e6:.2f} MB")
        lines.append(
            f"result: about {self.size_bytes / 1e6:.2f} MB; KV cache on the device {self.cache_bytes / 1e6:.2f} MB"
        )
        return "\n".join(lines)


def plan_text_model(source: Source, options: TextExportOptions, *, n_layers: int | None = None) -> ExportPlan:
    """Of a model that generates text.

    Raises OptionError on what the export itself would refuse before it reads weights.
    """
    file = gguf_of(source)
    if isinstance(source, Checkpoint):
        config = source.config(n_layers=n_layers)
        check_generates(config, source.place)
        reads = files_read(source)
    elif file is not None:
        config = file.config(n_layers=n_layers)
        kinds = ", ".join(f"{count} tensors of {kind}" for kind, count in file.types().items())
        reads = f"{file.path}, {file.path.stat().st_size / 1e6:.2f} MB: {kinds}"
    else:
        assert isinstance(source, TextModel)
        config, reads = source.read_config(n_layers), source.weights
    if options.adapter is not None:
        reads += f"; adapter {options.adapter}"
    check_positions(config, options)
    if isinstance(source, Checkpoint) and getattr(config, "quantization_config", None):
        model = source.load(n_layers=n_layers)  # only its weights tell what torchao made of them
    else:
        with one_line(source.name), torch.device("meta"):
            model = classes_of(config)[0].from_config(config, **exportable(config))
            model.tie_weights()
    if file is not None and options.recipe is None and source.recipe is None:
        return ExportPlan(reads, _rows_of_file(file, config.num_hidden_layers, options), _cache_bytes(config, options))
    plain_linears(model)
    recipe = options.recipe or source.recipe or DEFAULT_RECIPE
    last, table = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[no-untyped-call]
    bits = [_bits(named(recipe, options)) for named in (head_recipe, embedding_recipe)]
    tied = bits[0] == bits[1] and getattr(last, "weight", None) is table.weight
    packed = source.matrices() if isinstance(source, Checkpoint) and options.recipe is None else {}
    groups: dict[tuple[str, str], list[int]] = {}
    tables = tables_of(model)
    for name, module in model.named_modules():
        if module in tables and module is not tables[0]:
            continue  # its integers are the first one's
        matrix = packed.get(f"{name}.weight") if module is not last or options.lm_head is None else None
        own = head_recipe(recipe, options) if module is last else recipe
        if isinstance(module, nn.Embedding):
            own = embedding_recipe(recipe, options) if module in tables else FLOAT_TABLE
        parts = list(_sizes(module, options, own, tied=tied and module is last))
        if isinstance(matrix, PackedMatrix):
            parts[0] = _size_of_packed(matrix)
        for count, size, what, how in parts:
            total = groups.setdefault((what, how), [0, 0])
            total[0] += count
            total[1] += size
    rows = tuple((what, how, count, size) for (what, how), (count, size) in groups.items())
    return ExportPlan(reads, rows, _cache_bytes(config, options))


def _rows_of_file(file: GgufFile, n_layers: int, options: TextExportOptions) -> tuple[tuple[str, str, int, int], ...]:
    """As keep_weights will keep them; a table that is the last linear, too, has its integers once."""
    groups: dict[tuple[str, str], list[int]] = {}
    recipe = embedding_recipe(DEFAULT_RECIPE, options)

    def add(what: str, how: str, count: int, size: int) -> None:
        total = groups.setdefault((what, how), [0, 0])
        total[0] += count
        total[1] += size

    for name, tensor in file.tensors.items():
        layer = name.split(".")[1]
        if name.startswith("blk.") and int(layer) >= n_layers:
            continue
        kind, count = tensor.tensor_type.name, int(tensor.n_elements)
        block = TYPES.get(kind.lower())
        shared = False
        if name == "token_embd.weight":
            shared = block is not None and not block.has_terms and options.embedding is None
            if shared and block is not None:
                add("embeddings", f"{kind} kept exactly", count, _stored(count, block.bits, block.group_size, 2))
            elif recipe == FLOAT_TABLE:
                add("embeddings", "in float32", count, 4 * count)
            else:
                size = _stored(count, _bits(recipe), options.group_size, _scale_bytes(options))
                add("embeddings", f"{kind} quantized as {recipe}, groups of {options.group_size}", count, size)
            if "output.weight" in file.tensors:
                continue
        if len(tensor.shape) < 2:
            add("other parameters", "in float32", count, 4 * count)
        elif block is None:
            add("linears", f"{kind} quantized anew", count, count)
        else:
            # Beside terms, a sum, a scale and a term of 4 bytes each; otherwise a scale that is a float16.
            per_group = 12 if block.has_terms else 2
            how = f"{kind} kept exactly" + (", the table's integers" if shared else "")
            add("linears", how, count, 0 if shared else _stored(count, block.bits, block.group_size, per_group))
    return tuple((what, how, count, size) for (what, how), (count, size) in groups.items())


def files_read(source: Checkpoint) -> str:
    """The weight files of a folder with the dtypes in them; of an id that transformers will fetch, the id."""
    if not source.is_local:
        return f"{source.place}, by transformers"
    folder = Path(source.place)
    paths = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    dtypes: Counter[str] = Counter()
    for path in paths:
        if path.suffix == ".safetensors":
            with one_line(str(path)), safe_open(path, "pt") as file:
                dtypes.update(file.get_slice(name).get_dtype() for name in file.keys())
    kinds = ", ".join(f"{count} tensors of {dtype}" for dtype, count in sorted(dtypes.items()))
    size = sum(path.stat().st_size for path in paths)
    return f"{len(paths)} files of {folder}, {size / 1e6:.2f} MB" + (f": {kinds}" if kinds else "")


def _size_of_packed(matrix: PackedMatrix) -> tuple[int, int, str, str]:
    n_rows, length = matrix.integers.codes.shape
    layout = Layout.of(length, length // matrix.integers.scales.shape[1])
    size = n_rows * (layout.packed_length * matrix.bits // 8 + layout.steps * (12 if matrix.offset else 2))
    return n_rows * length, size, "linears", f"{matrix.kind} kept exactly, {matrix.how}"


def _sizes(
    module: nn.Module, options: TextExportOptions, recipe: str, *, tied: bool
) -> list[tuple[int, int, str, str]]:
    """(parameters, bytes, what, how) of a module's own parameters. tied: to a table that has its integers."""
    found = []
    for name, parameter in module.named_parameters(recurse=False):
        count, group = parameter.numel(), options.group_size
        if isinstance(parameter, IntxUnpackedToInt8Tensor):
            found.append((count, *_size_of_integers(parameter)))
            continue
        is_table, is_linear = isinstance(module, nn.Embedding), isinstance(module, nn.Linear)
        what = "embeddings" if is_table else "linears" if is_linear else "other parameters"
        if name != "weight" or what == "other parameters":
            found.append((count, 4 * count, "other parameters", "in float32"))
        elif parameter.shape[1] % group or group < 2:
            found.append((count, 4 * count, f"{what} that groups of {group} do not fit", "in float32"))
        elif recipe == FLOAT_TABLE:
            found.append((count, 4 * count, what, "in float32"))
        else:
            layout = Layout.of(parameter.shape[1], group)
            scale_bytes = _scale_bytes(options) if is_table or recipe.startswith("8da") else 4
            stored = layout.packed_length * _bits(recipe) // 8 + scale_bytes * layout.steps
            how = f"quantized as {recipe}, groups of {group}" + (", the table's integers" if tied else "")
            found.append((count, 0 if tied else len(parameter) * stored, what, how))
    return found


def _stored(count: int, bits: int, group_size: int, per_group: int) -> int:
    """Bytes of integers in groups that need no padding, and of what goes with a group."""
    return count * bits // 8 + per_group * (count // group_size)


def _scale_bytes(options: TextExportOptions) -> int:
    return 2 if options.weight_scales == "f16" else 4


def _bits(recipe: str) -> int:
    """Of the weights; 0 of a table in float."""
    return 0 if recipe == FLOAT_TABLE else 8 if recipe in ("8da8w", "8w") else 4


def _size_of_integers(weight: IntxUnpackedToInt8Tensor) -> tuple[int, str, str]:
    """(bytes, what, how) of what torchao quantized."""
    n_rows, length = weight.shape
    bits, group = (4 if weight.target_dtype is torch.int4 else 8), weight.block_size[-1]  # type: ignore[attr-defined]
    layout = Layout.of(length, group)
    size = n_rows * (layout.packed_length * bits // 8 + layout.steps * 4)
    return size, "weights", f"torchao's integers kept exactly, int{bits}, groups of {group}"


def _cache_bytes(config: PreTrainedConfig, options: TextExportOptions) -> int:
    length = options.max_context
    if is_seq2seq(config):  # whose decoder's heads are as many as its encoder's in all models that there are
        length += source_positions(config, options.max_source or options.max_context)
        layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
        heads = getattr(config, "decoder_attention_heads", None) or config.num_attention_heads
        width = getattr(config, "d_kv", None) or config.hidden_size // heads
        return int(2 * layers * heads * width * length * 4)
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return int(2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * width * length * 4)

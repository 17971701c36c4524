"""From a trained model to a .pte whose linears run on Vulkan: load, quantize, torch.export, lower, write.

The method is `forward(input_ids [1, T], cache_position [T]) -> logits [1, 1, vocabulary]` of the last position, for
every T from 1 to max_prefill, with the KV cache inside; or, of `top_logits` K, `-> logits [1, 1, K], tokens [1, 1, K]`,
the likeliest first. What generation has to know (lengths, special tokens, the chat
template) stands in constant methods, under the names that ExecuTorch's text runner reads where it has one.
Rejected: logits of all positions, 25 MB for 128 tokens of a 49,152-word vocabulary.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
import torch._dynamo.guards
from executorch.exir import (
    EdgeCompileConfig,
    EdgeProgramManager,
    ExecutorchProgramManager,
    to_edge_transform_and_lower,
)
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim, ExportedProgram
from torchao.quantization import IntxUnpackedToInt8Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

from ..errors import OptionError
from ..export.partitioner import ZeropointPartitioner
from ..export.passes.drop_unread_buffers import DropUnreadBuffers
from ..export.versions import warn_of_untried
from ..files import replace_file
from ..lowering.options import CompileOptions
from ..quantization.coverage import QuantizationSummary, quantization_summary
from ..quantization.exact_weights import exact_weight
from ..quantization.half_scales import HalfScales, half_weight_scales
from ..quantization.recipes import EMBEDDINGS, quantize, why_unfit
from ..rules.rows import MOST_FIRST
from .adapters import merge_adapter
from .files import check_output, tokenizer_path
from .kept_weights import KeptTable, keep_weights
from .models import Source, find_source, load_tokenizer, load_weights, quantized_matrices
from .quantized_loading import WhileLoading
from .sampling import largest
from .seq2seq import export_seq2seq, is_seq2seq, reads_speech, start_tokens
from .shape_rules import quick_shapes

STEPS = ("load", "quantize", "torch.export", "lower", "write")
DEFAULT_RECIPE = "8da4w"
DEFAULT_PREFILL = 128
WEIGHT_SCALES = ("model", "f16")
_LONGEST = 300  # characters of another library's message
FLOAT_TABLE = "model"  # an embedding that stays as the model has it
Metadata = dict[str, int | bool | str | list[int]]


class Progress(Protocol):
    """Is told the step that is going on, and in some how much of it is done."""

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExportOptions:
    """How a text model is exported.

    recipe, group_size, algorithm: see quantize(). recipe None: the model's own, which is `8da4w` unless it says
    otherwise; what is quantized in a GGUF file then stays what it is, with int8 activations. lm_head: its own recipe;
    beside `8da4w` it is `8da8w` unless given, because it decides the words. embedding: `8w` or `4w`, by torchao's
    IntxWeightOnlyConfig, or `model` for float; beside `8da4w` it is `8w` unless given, and tied to a last linear of
    8 bits it is stored once. weight_scales: `f16` rounds those of quantized weights (half_weight_scales). adapter: the
    folder or id of a LoRA adapter, which is merged into the weights first. max_context: positions in the KV cache.
    max_prefill: tokens in one call. max_source: tokens that the encoder of an encoder with a decoder reads, None for
    max_context. top_logits: a call gives that many of the largest logits and their tokens, chosen on the device: 1 for
    the likeliest token, 40 for sampling of at most so many; None for those of all tokens. program: how the delegates
    are compiled.
    """

    recipe: str | None = None
    group_size: int = 32
    algorithm: str = "hqq_scale_only"
    lm_head: str | None = None
    embedding: str | None = None
    weight_scales: str = WEIGHT_SCALES[0]
    adapter: str | None = None
    max_context: int = 512
    max_prefill: int = DEFAULT_PREFILL
    max_source: int | None = None
    top_logits: int | None = None
    program: CompileOptions = field(default_factory=CompileOptions)

    def __post_init__(self) -> None:
        if self.embedding not in (None, *EMBEDDINGS, FLOAT_TABLE):
            raise OptionError(f"export: embedding {self.embedding!r}; offered {', '.join((*EMBEDDINGS, FLOAT_TABLE))}")
        if self.weight_scales not in WEIGHT_SCALES:
            raise OptionError(f"export: weight_scales {self.weight_scales!r}; offered {', '.join(WEIGHT_SCALES)}")
        if not 2 <= self.max_context <= 1 << 20:
            raise OptionError(f"export: max_context {self.max_context}; need 2 to {1 << 20}")
        if not 2 <= self.max_prefill <= self.max_context:
            raise OptionError(
                f"export: max_prefill {self.max_prefill}; need 2 to max_context, which is {self.max_context}"
            )
        if self.top_logits is not None and not 1 <= self.top_logits <= MOST_FIRST:
            raise OptionError(f"export: top_logits {self.top_logits}; need 1 to {MOST_FIRST}")
        if self.max_source is not None and not 2 <= self.max_source <= 1 << 20:
            raise OptionError(f"export: max_source {self.max_source}; need 2 to {1 << 20}")


@dataclass(frozen=True, slots=True)
class ExportedText:
    """What was written, and of how many linears. summary: what is quantized. kept: what a file had quantized.

    tokenizer: None where there is none. scales: what rounding the weights' scales did, where that was asked for.
    """

    program: Path
    tokenizer: Path | None
    size_bytes: int
    n_linears: int
    summary: QuantizationSummary
    kept: KeptTable | None = None
    scales: HalfScales | None = None


def export_text_model(
    model: str | Source,
    output: Path,
    options: TextExportOptions | None = None,
    *,
    n_layers: int | None = None,
    progress: Progress = lambda step, done=0, total=0: None,
) -> ExportedText:
    """Writes output and, beside it, the tokenizer.

    progress: is told each of STEPS as it begins, and in it how many weights are quantized, and of how many.
    A checkpoint's float weights are quantized as they are read, so that one at a time is in float32 in memory; but for
    those that several modules share, with an adapter, and by `8da4w-float-zp`.

    model: the name of one of ours, a folder of transformers' files, a .gguf, or an id. n_layers: keep only the first
    ones, which talks nonsense but exports in seconds. Raises OptionError on an unknown model, one that is not installed
    or cannot be read, or an output that cannot be written.
    """
    warn_of_untried("transformers")
    progress = _giving_back(progress)
    source = find_source(model) if isinstance(model, str) else model
    chosen = options or TextExportOptions()
    chosen = replace(chosen, recipe=chosen.recipe or source.recipe)
    check_output(output)
    progress("load")
    tokenizer, quantizer = load_tokenizer(source), None
    if chosen.adapter is None:
        quantizer = WhileLoading(partial(quantized_while_loading, chosen), partial(progress, "load"))
    weights = load_weights(source, n_layers=n_layers, quantizer=quantizer)
    if chosen.adapter is not None:
        weights = merge_adapter(weights, chosen.adapter, all_layers=n_layers is None)
    check_positions(weights.config, chosen)
    vocabulary = int(weights.config.vocab_size)
    if (chosen.top_logits or 0) > vocabulary:
        raise OptionError(f"export: top_logits {chosen.top_logits}; the model has {vocabulary} tokens; lower it")
    before = set(quantization_summary(weights).quantized) - (quantizer.done if quantizer else set())
    if chosen.recipe is not None and before:
        raise OptionError(f"export: recipe {chosen.recipe}: the weights are quantized already; leave the recipe out")
    n_linears = sum(isinstance(module, nn.Linear) for module in weights.modules())
    progress("quantize")
    kept = keep_quantized(weights, source, chosen)
    quantize_text_model(weights, chosen, partial(progress, "quantize"))
    scales = half_weight_scales(weights) if chosen.weight_scales == "f16" else None
    summary = quantization_summary(weights)
    metadata = text_metadata(weights, tokenizer, chosen) | {"get_n_linears": n_linears}
    lengths = {"max_context": chosen.max_context, "max_prefill": chosen.max_prefill}
    exported: ExportedProgram | dict[str, ExportedProgram]
    with quick_shapes():
        progress("torch.export")
        with _traced(source.name):
            if is_seq2seq(weights.config):
                source_length = chosen.max_source or chosen.max_context
                exported = export_seq2seq(weights, **lengths, max_source=source_length, top_logits=chosen.top_logits)
            else:
                reads = source.reads_embeddings
                exported = export_decoder(weights, **lengths, top_logits=chosen.top_logits, reads_embeddings=reads)
        progress("lower")
        program = lower_decoder(exported, chosen.program, metadata).to_executorch()
    progress("write")
    return replace(write_program(output, program, tokenizer, n_linears, summary, kept), scales=scales)


def _giving_back(progress: Progress) -> Progress:
    """Before each step what was freed goes back to the system; glibc keeps what lies between things in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def begin(step: str, done: int = 0, total: int = 0) -> None:
        if not done and trim is not None:
            gc.collect()
            trim(0)
        progress(step, done, total)

    return begin


@contextmanager
def _traced(name: str) -> Iterator[None]:
    """What torch.export finds in a model that it cannot trace is one line of ours."""
    try:
        yield
    except TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        code = [line for line in lines if line.startswith("File ")]
        raise OptionError(
            f"export: {name}: torch.export cannot trace the model: {' '.join(lines[:2])[:_LONGEST]}"
            + (f" ({code[-1]})" if code else "")
        ) from error


def keep_quantized(model: PreTrainedModel, source: Source, options: TextExportOptions) -> KeptTable | None:
    """Puts weights that are quantized in a file into the model as they are; None where there is no such file.

    A recipe, or one of the last linear or the table, asks for another quantization: nothing, or they, are not kept.
    """
    matrices = quantized_matrices(source) if options.recipe is None else {}
    if not matrices:
        return None
    given = [
        module
        for module, recipe in (
            (model.get_output_embeddings(), options.lm_head),  # type: ignore[no-untyped-call]
            (model.get_input_embeddings(), options.embedding),
        )
        if recipe is not None
    ]
    skipped = {f"{name}.weight" for name, module in model.named_modules() if any(module is item for item in given)}
    return keep_weights(model, matrices, skip=skipped.__contains__)


def head_recipe(recipe: str, options: TextExportOptions) -> str:
    """Of the last linear, when the others have this one."""
    return options.lm_head or ("8da8w" if recipe == "8da4w" else recipe)


def embedding_recipe(recipe: str, options: TextExportOptions) -> str:
    """Of the table of the words, when the linears have this one."""
    return options.embedding or ("8w" if recipe == "8da4w" else FLOAT_TABLE)


def tables_of(model: PreTrainedModel) -> list[nn.Module]:
    """The table of the words; an encoder and its decoder may each have it, tied, in a module of its own."""
    weight = model.get_input_embeddings().weight
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is weight]


def quantize_text_model(
    model: PreTrainedModel, options: TextExportOptions, progress: Callable[[int, int], None] | None = None
) -> PreTrainedModel:
    """Quantizes every linear and the table of the words in place, but what is quantized already."""
    body, head, table = _ways(options)
    last, words = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[no-untyped-call]
    if table["embedding"] != FLOAT_TABLE:
        assert isinstance(words.weight, torch.Tensor)
        tied = isinstance(last, nn.Linear) and _share(last.weight, words.weight)
        quantize(nn.ModuleList(tables_of(model)), **table, progress=progress)
        made = words.weight
        if tied and head["recipe"] == f"8da{table['embedding']}" and isinstance(made, IntxUnpackedToInt8Tensor):
            bits = 8 if made.target_dtype is torch.int8 else 4
            weight = exact_weight(made.qdata, made.scale, None, zeros=made.zero_point, bits=bits, dynamic=True)
            last.weight = nn.Parameter(weight, requires_grad=False)  # the same integers, once in memory
    if head["recipe"] != body["recipe"] and isinstance(last, nn.Linear):
        quantize(nn.ModuleList([last]), **head, progress=progress)
    quantize(model, **body, progress=progress)
    return model


def _share(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two float tensors have the same memory; what torchao quantized has none of its own."""
    quantized = isinstance(one, IntxUnpackedToInt8Tensor) or isinstance(other, IntxUnpackedToInt8Tensor)
    return not quantized and one.data_ptr() == other.data_ptr()


def quantized_while_loading(
    options: TextExportOptions, model: PreTrainedModel
) -> dict[str, Callable[[nn.Module], object]]:
    """By the name of a weight what does with its module as quantize_text_model would.

    Not of weights that several modules share, nor by a recipe that puts modules of another class into the model.
    """
    body, head, table = _ways(options)
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    last, words = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[no-untyped-call]
    found: dict[str, Callable[[nn.Module], object]] = {}
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if not isinstance(module, nn.Linear | nn.Embedding) or name in tied:
            continue
        way = head if module is last else table if module is words else body
        if isinstance(module, nn.Linear) != ("recipe" in way) or FLOAT_TABLE in way.values():
            continue
        if way.get("recipe") != "8da4w-float-zp" and not why_unfit(module.weight.shape[1], options.group_size):
            found[name] = partial(_quantize_one, way)
    return found


def _quantize_one(way: dict[str, Any], module: nn.Module) -> None:
    quantize(nn.ModuleList([module]), **way)


def _ways(options: TextExportOptions) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """quantize()'s arguments for the linears, the last of them, and the table of the words.

    The table's algorithm is the last linear's: tied, they stay equal.
    """
    recipe = options.recipe or DEFAULT_RECIPE
    head = head_recipe(recipe, options)
    body = {"group_size": options.group_size, "algorithm": options.algorithm}
    last = body | ({} if head == recipe else {"algorithm": "affine"})
    return body | {"recipe": recipe}, last | {"recipe": head}, last | {"embedding": embedding_recipe(recipe, options)}


def export_decoder(
    model: PreTrainedModel,
    *,
    max_context: int,
    max_prefill: int,
    top_logits: int | None = None,
    reads_embeddings: bool = False,
) -> ExportedProgram:
    """torch.export of a transformers decoder with a static cache; see the module for the method's inputs and output.

    top_logits: see TextExportOptions. reads_embeddings: inputs_embeds [1, T, hidden] in place of input_ids.
    """
    model.generation_config.cache_implementation = "static"
    model.generation_config.use_cache = True
    decoder = TorchExportableModuleForDecoderOnlyLM(model, batch_size=1, max_cache_len=max_context)
    whole = type(model)
    # A changed instance would lose tensors that the trace lifts out of it.
    model.__class__ = _of_last_position(whole, top_logits)
    length = Dim("length", min=1, max=max_prefill)
    tokens = {"input_ids": torch.zeros(1, 3, dtype=torch.long)}
    if reads_embeddings:
        tokens = {"inputs_embeds": torch.zeros(1, 3, model.config.hidden_size)}
    try:
        with torch.no_grad(), _simple_guards():
            exported: ExportedProgram = decoder.export(
                **tokens,
                cache_position=torch.arange(3),
                dynamic_shapes={**{name: {1: length} for name in tokens}, "cache_position": {0: length}},
                strict=True,  # otherwise run_decompositions finds no graph in the regions of the gradient mode
            )
            return exported
    finally:
        model.__class__ = whole


@contextmanager
def _simple_guards() -> Iterator[None]:
    """Strict export writes a function of its guards that nobody calls, and looks for what their expressions have in
    common: a tenth of an export of 30 layers. PyTorch does without where that would recurse too deeply, as here."""

    def give_up(*_: object) -> None:
        raise RecursionError

    search = getattr(torch._dynamo.guards, "PyExprCSEPass", None)
    if search is None:  # in another version of PyTorch
        yield
        return
    count = search.count
    search.count = give_up
    try:
        yield
    finally:
        search.count = count


def _of_last_position(whole: type[PreTrainedModel], top_logits: int | None) -> type[PreTrainedModel]:
    """The class with a forward that gives the logits of the last position alone, or the largest of them."""

    @wraps(whole.forward)
    def forward(self: PreTrainedModel, *args: object, **options: object) -> object:
        found = whole.forward(self, *args, **{**options, "logits_to_keep": 1})
        found.logits = largest(found.logits, top_logits)
        return found

    return type(whole.__name__, (whole,), {"forward": forward})


def lower_decoder(
    exported: ExportedProgram | dict[str, ExportedProgram], options: CompileOptions, metadata: Metadata
) -> EdgeProgramManager:
    """The edge program with our delegates, of one method or several, by the documented call.

    Without the verifier's runs of the whole graph, and without each node's history, which every pass copies. What other
    methods write and do not read, `forward` does.
    """
    methods = exported if isinstance(exported, dict) else {"forward": exported}
    for program in methods.values():
        for node in program.graph.nodes:
            node.meta.pop("from_node", None)
    partitioner = [ZeropointPartitioner(options)]
    return to_edge_transform_and_lower(
        methods,
        transform_passes={name: [DropUnreadBuffers()] if name == "forward" else [] for name in methods},
        partitioner=dict.fromkeys(methods, partitioner),
        constant_methods=metadata,
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )


def text_metadata(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None, options: TextExportOptions
) -> Metadata:
    """Constant methods. All but the chat template are ExecuTorch's own names."""
    ends = _end_tokens(model, tokenizer)
    begin = getattr(model.config if tokenizer is None else tokenizer, "bos_token_id", None)
    starts: Metadata = {"get_decoder_start_ids": start_tokens(model)} if is_seq2seq(model.config) else {}
    top: Metadata = {} if options.top_logits is None else {"get_top_logits": options.top_logits}
    return (
        starts
        | top
        | {
            "get_vocab_size": int(model.config.vocab_size),
            "get_max_seq_len": options.max_prefill,
            "get_max_context_len": options.max_context,
            "get_bos_id": ends[0] if begin is None else int(begin),
            "get_eos_ids": ends,
            "enable_dynamic_shape": True,
            "use_kv_cache": True,
            "get_chat_template": "" if tokenizer is None else _chat_template(tokenizer),
        }
    )


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None) -> list[int]:
    """As generation_config.json says, else config.json, else the tokenizer. Raises OptionError where none does."""
    for source in (model.generation_config, model.config, tokenizer):
        ends = getattr(source, "eos_token_id", None)
        if ends is not None:
            return [int(end) for end in (ends if isinstance(ends, (list, tuple)) else [ends])]
    raise OptionError("export: the model names no end token; write eos_token_id into its generation_config.json")


def _chat_template(tokenizer: PreTrainedTokenizerFast) -> str:
    """The template of a conversation without tools; empty of a base model."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default", "")
    return str(template or "")


def check_positions(config: PreTrainedConfig, options: TextExportOptions) -> None:
    """Raises OptionError where a cache would be longer than the model has positions, or be of no use."""
    lengths = {"max_context": options.max_context}
    if is_seq2seq(config) and not reads_speech(config):
        lengths["max_source"] = options.max_source or options.max_context
    elif options.max_source is not None:
        what = "an encoder whose source has one length" if is_seq2seq(config) else "no encoder"
        raise OptionError(f"export: max_source {options.max_source}: the model has {what}; leave --max-source out")
    limit = getattr(config, "max_position_embeddings", getattr(config, "max_target_positions", None))
    for name, length in lengths.items():
        if isinstance(limit, int) and length > limit:
            option = "--" + name.replace("_", "-")
            raise OptionError(f"export: {name} {length}; the model has {limit} positions; lower {option}")


def write_program(
    output: Path,
    program: ExecutorchProgramManager,
    tokenizer: PreTrainedTokenizerFast | None,
    n_linears: int,
    summary: QuantizationSummary,
    kept: KeptTable | None = None,
) -> ExportedText:
    """Writes a program and, beside it, its tokenizer if it has one: both or, when it is interrupted, neither."""
    words = None if tokenizer is None else tokenizer_path(output)

    def write(file: BinaryIO) -> None:
        program.write_to_file(file)
        if tokenizer is not None:
            text = tokenizer.backend_tokenizer.to_str(pretty=True)
            replace_file(tokenizer_path(output), lambda file: file.write(text.encode()))

    replace_file(output, write)
    return ExportedText(output, words, output.stat().st_size, n_linears, summary, kept)

"""From an encoder to a .pte: load, quantize, torch.export, lower, write. See encoders.py for the methods' inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from ..errors import OptionError
from ..lowering.options import CompileOptions
from ..quantization.coverage import quantization_summary
from ..quantization.recipes import quantize
from .encoders import Encoder, EncoderCheckpoint, SentenceEncoder, example_inputs, load_encoder, load_encoder_tokenizer
from .export import DEFAULT_RECIPE, ExportedText, Progress, lower_decoder, write_program
from .files import check_output
from .shape_rules import quick_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderExportOptions:
    """How an encoder is exported. recipe, group_size, algorithm: see quantize(). max_tokens: of one text."""

    recipe: str = DEFAULT_RECIPE
    group_size: int = 32
    algorithm: str = "hqq_scale_only"
    max_tokens: int = 128
    program: CompileOptions = field(default_factory=CompileOptions)


def export_encoder_model(
    encoder: Encoder | EncoderCheckpoint,
    output: Path,
    options: EncoderExportOptions | None = None,
    *,
    n_layers: int | None = None,
    progress: Progress = lambda step, done=0, total=0: None,
) -> ExportedText:
    """As export_text_model does for a decoder."""
    chosen = options or EncoderExportOptions()
    check_output(output)
    progress("load")
    tokenizer, module = load_encoder_tokenizer(encoder), load_encoder(encoder, n_layers=n_layers)
    n_linears = sum(isinstance(item, nn.Linear) for item in module.modules())
    progress("quantize")
    told = partial(progress, "quantize")
    quantize(module, recipe=chosen.recipe, group_size=chosen.group_size, algorithm=chosen.algorithm, progress=told)
    summary = quantization_summary(module)
    metadata = {"get_max_seq_len": chosen.max_tokens} if encoder.reads_text else {}
    with quick_shapes():
        progress("torch.export")
        exported = export_encoder(module, max_tokens=chosen.max_tokens)
        progress("lower")
        program = lower_decoder(exported, chosen.program, {**metadata, "get_n_linears": n_linears}).to_executorch()
    progress("write")
    return write_program(output, program, tokenizer, n_linears, summary)


def export_encoder(module: nn.Module, *, max_tokens: int) -> ExportedProgram:
    """torch.export of a SentenceEncoder or ImageClassifier. max_tokens: of one text."""
    if isinstance(module, SentenceEncoder):
        limit = module.model.config.max_position_embeddings
        if not 2 <= max_tokens <= limit:
            raise OptionError(f"export: max_prefill {max_tokens}; need 2 to {limit}, the model's positions")
    inputs, sizes = example_inputs(module, max_tokens)
    with torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=sizes, strict=True)

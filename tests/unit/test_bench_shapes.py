"""bench/shapes.py: a Program whose layers shared their weights while it was lowered is like any other."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from zeropoint.export.inspection import inspect
from zeropoint.llm.export import TextExportOptions, export_decoder, lower_decoder, quantize_text_model
from zeropoint.program import Program
from zeropoint.quantization.half_scales import half_weight_scales
from zeropoint.runtime.player import LoadedProgram

LAYERS = 3


def load_shapes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shapes", Path(__file__).parents[2] / "bench" / "shapes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=96, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip


def own_weights() -> Program:
    options = TextExportOptions(algorithm="affine", max_context=32, max_prefill=8)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(), dtype=torch.float32).eval()
    quantize_text_model(model, options)
    half_weight_scales(model)
    exported = export_decoder(model, max_context=32, max_prefill=8)
    (program,) = inspect(bytes(lower_decoder(exported, options.program, {}).to_executorch().buffer)).programs
    return program


def sizes(program: Program) -> list[tuple[str, int]]:
    """Of each constant, its dtype and bytes."""
    found = {tensor.constant: (tensor.dtype.value, tensor.size_bytes) for tensor in program.tensors if tensor.constant}
    return sorted(found.values())


@pytest.mark.slow
def test_a_published_shape_has_the_constants_of_an_exported_model() -> None:
    shapes = load_shapes()
    program = shapes.export_shape(config, max_context=32, max_prefill=8)
    wanted = own_weights()
    assert [call.kernel for call in program.calls] == [call.kernel for call in wanted.calls]
    norms = {("f32", 256)}  # the layers' norms stay one tensor, 256 bytes each
    assert [size for size in sizes(program) if size not in norms] == [
        size for size in sizes(wanted) if size not in norms
    ]
    filled, constants = shapes.random_constants(program)
    with LoadedProgram(filled, constants) as loaded:
        (logits,) = loaded.execute([np.array([[3, 4]], np.int64), np.arange(2)])
    assert np.isfinite(logits).all()
    assert logits.std() > 0

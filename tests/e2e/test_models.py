"""The models of `zeropoint export --list` that have random weights, at their published width and with few layers.

Their vocabularies are cut to 4,096 words: an embedding of Phi-4-mini's takes 2.5 GB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from executorch.exir._serialize._program import deserialize_pte_binary
from torch import nn
from transformers import PreTrainedConfig

import zeropoint
from tests.e2e import codes
from zeropoint.llm.export import TextExportOptions, export_decoder, lower_decoder, quantize_text_model
from zeropoint.llm.models import MODELS, TextModel, find_model, load_weights
from zeropoint.llm.shape_rules import quick_shapes
from zeropoint.runtime.running import open_program

pytestmark = pytest.mark.usefixtures("validated")
WORDS = 4096
CONTEXT, PREFILL = 64, 16
LENGTHS = (1, 1, 1, 1, 2, 5, 16)
NAMES = [model.name for model in MODELS if model.config is not None]


@dataclass(frozen=True)
class Exported:
    """A model's .pte beside the quantized module."""

    model: TextModel
    eager: nn.Module
    path: Path


def small_config(model: TextModel, *, padding: int = 0) -> PreTrainedConfig:
    assert model.config is not None
    config = model.config()
    config.vocab_size = min(WORDS, config.vocab_size)
    config.pad_token_id = padding
    return config


def export(name: str, folder: Path, *, n_layers: int) -> Exported:
    model = find_model(name)
    weights = load_weights(replace(model, config=lambda: small_config(model)), n_layers=n_layers)
    options = TextExportOptions(recipe=model.recipe, algorithm="affine")
    eager = quantize_text_model(weights, options)
    path = folder / f"{name}.pte"
    with quick_shapes():
        exported = export_decoder(
            eager, max_context=CONTEXT, max_prefill=PREFILL, reads_embeddings=model.reads_embeddings
        )
        path.write_bytes(lower_decoder(exported, options.program, {}).to_executorch().buffer)
    return Exported(model, eager, path)


def check(found: Exported) -> None:
    """One delegate call and nothing else; every call right; the logits after prompts and a token more."""
    plan = deserialize_pte_binary(found.path.read_bytes()).program.execution_plan[0]
    assert (len(plan.delegates), [operator.name for operator in plan.operators]) == (1, [])
    zero_points = {
        call_tensor.dtype.value
        for item in zeropoint.inspect(found.path).programs
        for call in item.calls
        if call.kernel == "linear_dq8ca"
        for call_tensor in [item.tensors[call.tensor("zp")]]
    }
    assert zero_points == {"f32" if found.model.recipe == "8da4w-float-zp" else "i8"}
    program = open_program(found.path)
    forward, errors = program.load_method("forward"), []
    for length in LENGTHS:
        name, inputs = prompt(found, length)
        for part in (torch.arange(length - 1), torch.tensor([length - 1])):
            if len(part):
                (logits,) = forward.execute([inputs[:, part], part])
        with torch.no_grad():
            wanted = found.eager(**{name: inputs}, logits_to_keep=1).logits
        errors.append(float((logits.reshape(-1) - wanted.reshape(-1)).norm() / wanted.norm()))
    print(found.model.name, " ".join(f"{error:.1e}" for error in errors))
    assert min(errors) <= codes.EXACT
    assert max(errors) <= codes.ROUNDED
    check_codes(found)
    verified = zeropoint.verify(found.path, [prompt(found, 9)[1], torch.arange(9)])
    assert verified.is_right, verified.verdict()
    codes.assert_few_differ(verified)


def check_codes(found: Exported) -> None:
    """Of whole prompts: the codes of every quantization against eager's."""
    program = codes.KeptProgram(found.path)
    for length in LENGTHS[-3:]:
        name, inputs = prompt(found, length)
        logits = program(inputs, torch.arange(length)).reshape(-1)
        with torch.no_grad(), codes.recorded() as quantized:
            wanted = found.eager(**{name: inputs}, logits_to_keep=1).logits.reshape(-1)
        error = float((logits - wanted).norm() / wanted.norm())
        difference = codes.compare(program.quantized([len(item.q) for item in quantized]), quantized)
        print(f"{difference.n_different} of {difference.n_codes} codes, {difference.furthest:.1e}, logits {error:.1e}")
        codes.assert_as_eager(difference, error)


def prompt(found: Exported, length: int) -> tuple[str, torch.Tensor]:
    """The input's name and some of it."""
    if found.model.reads_embeddings:
        return "inputs_embeds", torch.randn(1, length, found.eager.config.hidden_size)
    return "input_ids", torch.randint(3, 2000, (1, length))


@pytest.mark.slow
def test_one_layer(tmp_path: Path) -> None:
    check(export("qwen3-0.6b", tmp_path, n_layers=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_layers(name: str, tmp_path: Path) -> None:
    check(export(name, tmp_path, n_layers=2))

"""Weights quantized as they are read: the same integers as afterwards, and one weight at a time in float."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from zeropoint.errors import OptionError
from zeropoint.llm.checkpoints import Checkpoint
from zeropoint.llm.export import TextExportOptions, export_decoder, quantize_text_model, quantized_while_loading
from zeropoint.llm.models import load_weights
from zeropoint.llm.quantized_loading import WhileLoading
from zeropoint.llm.shape_rules import quick_shapes
from zeropoint.quantization.coverage import quantization_summary

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
GROUPED = {**SIZES, "num_key_value_heads": 1}
CONFIGS = {
    "tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "untied": LlamaConfig(**GROUPED, tie_word_embeddings=False),
    "linears of another class": FalconConfig(**SIZES, new_decoder_architecture=True, num_kv_heads=1),
    "a table that scales": Gemma3TextConfig(**GROUPED, head_dim=32),
    "joined linears": Phi3Config(**GROUPED, pad_token_id=0),
    "experts": MixtralConfig(**GROUPED, num_local_experts=4),
}
OPTIONS = {
    "default": TextExportOptions(),
    "float zero points": TextExportOptions(recipe="8da4w-float-zp"),
    "float table": TextExportOptions(embedding="model", lm_head="8da4w"),
    "groups that do not fit some": TextExportOptions(group_size=64),
}


def saved(config: PreTrainedConfig, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    return Checkpoint(str(folder))


def tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """All numbers of a model, those inside quantized weights one by one."""
    for name, value in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        if isinstance(value, IntxUnpackedToInt8Tensor):
            assert value.dtype is torch.float32
            yield f"{name}: {value.target_dtype} {value.block_size} {value.activation_quantization}", value.qdata
            yield from ((f"{name} {part}", getattr(value, part)) for part in ("scale", "zero_point"))
        else:
            yield name, value


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("chosen", OPTIONS)
def test_the_same_model_as_quantized_afterwards(config: str, chosen: str, tmp_path: Path) -> None:
    source, options = saved(CONFIGS[config], tmp_path), OPTIONS[chosen]
    after = quantize_text_model(load_weights(source), options)
    quantizer = WhileLoading(partial(quantized_while_loading, options))
    read = load_weights(source, quantizer=quantizer)
    assert set(quantization_summary(read).quantized) == quantizer.done
    assert bool(quantizer.done) == (chosen != "float zero points")
    found, wanted = dict(tensors(quantize_text_model(read, options))), dict(tensors(after))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert value.dtype is found[name].dtype
        assert torch.equal(value, found[name]), name
    assert type(read) is type(after)
    assert not hasattr(read.config, "quantization_config")
    assert not getattr(read, "is_quantized", False)


def test_one_weight_at_a_time_is_in_float(tmp_path: Path) -> None:
    """And progress is told of each."""
    models: list[PreTrainedModel] = []
    told = []

    def choose(model: PreTrainedModel) -> dict[str, object]:
        models.append(model)
        return quantized_while_loading(TextExportOptions(), model)

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        linears = [module for module in models[0].modules() if isinstance(module, nn.Linear)]
        assert not any(type(module.weight) is nn.Parameter and not module.weight.is_meta for module in linears)

    load_weights(saved(CONFIGS["untied"], tmp_path), quantizer=WhileLoading(choose, progress))
    assert told == [(done, 2 * 7 + 2) for done in range(1, 2 * 7 + 3)]


@pytest.mark.parametrize(
    ("setting", "value", "wrong"),
    [
        ("intermediate_size", 64, r"down_proj.weight is \[64, 96\] in its files; config.json needs \[64, 64\]"),
        ("vocab_size", 40, r"(lm_head|embed_tokens).weight is \[50, 64\] in its files; config.json needs \[40, 64\]"),
    ],
)
def test_a_weight_of_another_size(setting: str, value: int, wrong: str, tmp_path: Path) -> None:
    source = saved(CONFIGS["untied"], tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    quantizer = WhileLoading(partial(quantized_while_loading, TextExportOptions()))
    with pytest.raises(OptionError, match=wrong):
        load_weights(source, quantizer=quantizer)


def test_a_vector_of_another_size(tmp_path: Path) -> None:
    """Which is not quantized."""
    source = saved(CONFIGS["untied"], tmp_path)
    tensors_of = load_file(tmp_path / "model.safetensors")
    tensors_of["model.norm.weight"] = torch.ones(32, dtype=torch.bfloat16)
    save_file(tensors_of, tmp_path / "model.safetensors", {"format": "pt"})
    quantizer = WhileLoading(partial(quantized_while_loading, TextExportOptions()))
    with pytest.raises(OptionError, match=r"norm.weight is \[32\] in its files; config.json needs \[64\]"):
        load_weights(source, quantizer=quantizer)


def test_the_last_linear_and_the_table_share_their_integers(tmp_path: Path) -> None:
    source = saved(CONFIGS["tied"], tmp_path)
    model = quantize_text_model(load_weights(source), TextExportOptions())
    head, table = model.lm_head.weight, model.get_input_embeddings().weight
    assert head.activation_quantization is not None
    assert table.activation_quantization is None
    for name in ("qdata", "scale", "zero_point"):
        assert getattr(head, name).data_ptr() == getattr(table, name).data_ptr()


def test_tracing_copies_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantize_text_model(load_weights(saved(CONFIGS["untied"], tmp_path)), TextExportOptions())
    weight = model.lm_head.weight
    copies = []
    clone = torch.clone

    def counted(x: torch.Tensor, **options: object) -> torch.Tensor:
        made = clone(x, **options)
        if isinstance(x, IntxUnpackedToInt8Tensor) and x.qdata.data_ptr():
            copies.append(made.qdata.data_ptr() != x.qdata.data_ptr())
        return made

    monkeypatch.setattr(torch, "clone", counted)
    with quick_shapes():
        export_decoder(model, max_context=16, max_prefill=8)
    assert copies  # torch.export asks for them: when it does not, shape_rules needs no clone
    assert not any(copies)
    assert weight.clone().qdata.data_ptr() != weight.qdata.data_ptr()

"""LoRA adapters: what peft computes beside the weights is computed by the merged ones; others are refused in a line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.unit.llm import packed
from tests.unit.llm.packed import random_weight
from zeropoint import quantize
from zeropoint.errors import OptionError
from zeropoint.llm.adapters import merge_adapter
from zeropoint.llm.checkpoints import Checkpoint
from zeropoint.llm.export import TextExportOptions, export_text_model, keep_quantized
from zeropoint.llm.models import load_weights
from zeropoint.llm.plan import plan_text_model

TOKENS = torch.tensor([[1, 5, 7, 2]])


def llama(width: int = 32) -> LlamaForCausalLM:
    sizes = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=40, eos_token_id=2, tie_word_embeddings=True))


def adapted(folder: Path, **options: object) -> torch.Tensor:
    """A model and, beside it, an adapter of its linears; the logits of both."""
    model = llama().eval()
    model.save_pretrained(folder / "model")
    targets = ["q_proj", "up_proj", "down_proj", "lm_head"]
    wrapped = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 10, "target_modules": targets, **options}))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(folder / "adapter")
    with torch.no_grad():
        logits: torch.Tensor = wrapped.eval()(TOKENS).logits
    return logits


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 3}}],
    ids=str,
)
def test_merged_weights_answer_alike(options: dict[str, object], tmp_path: Path) -> None:
    """The last linear too, although its weights are the embedding's."""
    wanted = adapted(tmp_path, **options)
    source = Checkpoint(str(tmp_path / "model"))
    plain = load_weights(source)
    with torch.no_grad():
        assert not torch.allclose(plain(TOKENS).logits, wanted, atol=0.1)
        merged = merge_adapter(plain, str(tmp_path / "adapter"))
        torch.testing.assert_close(merged(TOKENS).logits, wanted, atol=1e-5, rtol=1e-5)
    assert type(merged) is LlamaForCausalLM
    assert not any("lora" in name for name, _ in merged.named_parameters())
    plan = plan_text_model(source, TextExportOptions(adapter="some/adapter", max_context=64, max_prefill=8))
    assert plan.reads.endswith("; adapter some/adapter")


def test_the_first_layers_alone(tmp_path: Path) -> None:
    adapted(tmp_path)
    model, place = load_weights(Checkpoint(str(tmp_path / "model")), n_layers=1), str(tmp_path / "adapter")
    assert len(merge_adapter(model, place, all_layers=False).model.layers) == 1


def refused(folder: Path, text: str) -> None:
    options = TextExportOptions(adapter=str(folder / "adapter"), max_context=64, max_prefill=8)
    with pytest.raises(OptionError, match=rf"^export: adapter {folder / 'adapter'}: {text}") as caught:
        export_text_model(str(folder / "model"), folder / "m.pte", options)
    assert "\n" not in str(caught.value)
    assert not (folder / "m.pte").exists()


def test_adapters_that_are_refused(tmp_path: Path) -> None:
    adapted(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    save_file({key: value for key, value in weights.items() if key != name}, path)
    refused(tmp_path, rf"{name} is not in the adapter's files; it was made for another model$")
    save_file(weights | {name.replace(".1.", ".7."): weights[name].clone()}, path)
    refused(tmp_path, rf"{name.replace('.1.', '.7.')} is not in the model; it was made for another model$")
    save_file(weights | {name: weights[name][:5].contiguous()}, path)
    refused(tmp_path, ".*size mismatch")
    save_file(weights, path)
    config = tmp_path / "adapter" / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "target_modules": ["query"]}))
    refused(tmp_path, "Target modules .* not found")
    config.write_text("{")
    refused(tmp_path, "adapter_config.json: ")
    config.unlink()
    refused(tmp_path, r"no adapter_config\.json in it; need a folder of peft's$")


def test_what_changes_no_weights(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "model")
    wrapped = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert isinstance(wrapped, PeftModel)
    wrapped.save_pretrained(tmp_path / "adapter")
    refused(tmp_path, "PREFIX_TUNING changes no weights; offered LoRA and its like$")


def test_packed_weights_that_an_adapter_changes(tmp_path: Path) -> None:
    """They are quantized anew; the others stay what they are."""
    adapted(tmp_path)
    make = partial(random_weight, group=16, bits=4, symmetric=False)
    packed.pack_folder(tmp_path / "model", packed.gptq, packed.settings("gptq"), make)
    source = Checkpoint(str(tmp_path / "model"))
    model = merge_adapter(load_weights(source), str(tmp_path / "adapter"))
    table = keep_quantized(model, source, TextExportOptions())
    assert table is not None
    kept = {row.weight.split(".")[-2] for row in table.kept}
    assert kept == {"k_proj", "v_proj", "o_proj", "gate_proj"}
    assert {row.why for row in table.rows if "q_proj" in row.weight} == {
        "its rows are in float, or transformers changes them; it is quantized anew"
    }


def test_weights_that_are_quantized(tmp_path: Path) -> None:
    adapted(tmp_path)
    model = quantize(llama())
    with pytest.raises(OptionError, match=r"^export: adapter .*: the model's weights are quantized already; take its"):
        merge_adapter(model, str(tmp_path / "adapter"))

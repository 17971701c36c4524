"""Folders that transformers' save_pretrained wrote, exported by the command: one delegate, equal to eager."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
import transformers
from click.testing import CliRunner
from executorch.exir._serialize._program import deserialize_pte_binary
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxUnpackedToInt8Tensor, PerGroup
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import zeropoint
from tests.e2e import architectures, codes
from tests.e2e.architectures import DECODERS, ENCODER, MAX_CONTEXT, MAX_PREFILL, SIZES, VOCABULARY
from tests.e2e.test_architectures import LENGTHS, Comparison
from tests.unit.llm.packed import pack_folder, random_weight
from tests.unit.llm.test_packed_checkpoints import FORMS
from zeropoint.cli.main import main
from zeropoint.llm.checkpoints import Checkpoint
from zeropoint.llm.models import load_weights
from zeropoint.llm.tokenizer import Tokenizer as Words

pytestmark = pytest.mark.usefixtures("validated")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LENGTH_OPTIONS = ("--max-context", MAX_CONTEXT, "--max-prefill", MAX_PREFILL)
PARALLEL = ("Falcon", "GPT-NeoX", "Cohere")  # attention and feed-forward layer side by side
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def export(folder: Path, output: Path, *options: object) -> str:
    """What the command printed, after the .pte has been seen to be one delegate call and nothing else."""
    arguments = ["export", folder, "-o", output, "--algorithm", "affine", *options]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    plans = deserialize_pte_binary(output.read_bytes()).program.execution_plan
    (plan,) = [plan for plan in plans if plan.name == "forward"]
    assert (len(plan.delegates), [operator.name for operator in plan.operators]) == (1, [])
    return str(result.output)


def saved(model: PreTrainedModel, folder: Path, dtype: torch.dtype, **options: object) -> PreTrainedModel:
    """The model in float32, with the values that the files in this dtype hold."""
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
        parameter.data = parameter.data.to(dtype)  # not the rotation's buffers, which files do not hold
    model.save_pretrained(folder, **options)
    return model.float()


def words(folder: Path, vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A word is a token; written into the folder, with a chat template."""
    names = ["<unk>", "<s>", "</s>", "<user>", "<assistant>", *(f"w{index}" for index in range(vocabulary - 5))]
    backend = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return fast


def decoder(name: str, **changes: object) -> PreTrainedModel:
    """As its users configure it, without what the export has to find out. changes: of its configuration."""
    kind = DECODERS[name]
    own = {key: value for key, value in kind.options.items() if not key.endswith("_implementation")} | changes
    config = getattr(transformers, f"{kind.config or kind.name}Config")(**{**SIZES, **own})
    model: PreTrainedModel = getattr(transformers, f"{kind.name}ForCausalLM")(config)
    return model


def quantized(model: PreTrainedModel) -> PreTrainedModel:
    """8da4w with an 8da8w head and an 8w table of its own, in eager PyTorch."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    tables = [module for module in model.modules() if getattr(module, "weight", None) is table.weight]
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for module in model.modules():
        if type(module).__name__ == "FalconLinear":
            module.__class__ = nn.Linear
    tables = [module for module in tables if module is not head]
    zeropoint.quantize(nn.ModuleList([head, *tables]), recipe="8da8w", embedding="8w")
    zeropoint.quantize(model)
    return model


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "Llama")) for name in DECODERS]
)
def test_decoder(name: str, tmp_path: Path) -> None:
    """A prompt, a token, another prompt and a token; the weights in one of three dtypes, in shards."""
    folder, program = tmp_path / "model", tmp_path / "model.pte"
    dtype = DTYPES[list(DECODERS).index(name) % len(DTYPES)]
    model = saved(decoder(name), folder, dtype, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    if name == "Llama":
        check_llama(folder, program)
    else:
        assert "no tokenizer" in export(folder, program, *LENGTH_OPTIONS)
    if name in ("Gemma 2", "Gemma 3"):
        model.set_attn_implementation("eager")
    tokens, first = architectures.ids(sum(LENGTHS)), 0
    run = InAnyOrder(program) if name in PARALLEL else Comparison(program)
    for length, eager in zip(LENGTHS, last_logits(quantized(model), tokens), strict=True):
        run.check(eager, tokens[:, first : first + length], torch.arange(first, first + length))
        first += length


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_packed_weights(form: str, tmp_path: Path) -> None:
    """The integers of the files with int8 activations; only the last linear, in float there, is quantized by us."""
    folder, program = tmp_path / "model", tmp_path / "model.pte"
    pack, config = FORMS[form]
    model = saved(decoder("Llama"), folder, torch.float16)
    weights = pack_folder(folder, pack, config, partial(random_weight, group=32, bits=4, symmetric=False))
    method = config["quant_method"]
    assert f"kept exactly: {len(weights)} weights of {method} (int4, groups of 32" in export(
        folder, program, *LENGTH_OPTIONS
    )
    for name, weight in weights.items():
        scales = weight.scales.bfloat16() if form == "compressed" else weight.scales
        integers = ((weight.codes - 8).to(torch.int8), scales.float(), (weight.zeros - 8).to(torch.int8))
        kept = IntxUnpackedToInt8Tensor(*integers, torch.int4, (1, 32), torch.float32, "int8_asym_per_token")
        model.get_submodule(name.removesuffix(".weight")).weight = nn.Parameter(kept, requires_grad=False)
    check_tokens(program, quantized(model))


@pytest.mark.slow
def test_weights_of_torchao(tmp_path: Path) -> None:
    """A model that torchao quantized, saved by transformers in bfloat16; its last linear stayed in float."""
    floats, folder, program = tmp_path / "float", tmp_path / "model", tmp_path / "model.pte"
    saved(decoder("Llama"), floats, torch.bfloat16)
    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))
    model = transformers.LlamaForCausalLM.from_pretrained(
        floats, dtype=torch.bfloat16, quantization_config=transformers.TorchAoConfig(config)
    )
    model.save_pretrained(folder)
    export(folder, program, *LENGTH_OPTIONS)
    check_tokens(program, quantized(load_weights(Checkpoint(str(folder)))))


@pytest.mark.slow
def test_adapter(tmp_path: Path) -> None:
    """Merged by us, and by peft before eager quantizes it."""
    folder, program = tmp_path / "model", tmp_path / "model.pte"
    model = saved(decoder("Qwen2"), folder, torch.float32)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(tmp_path / "adapter")
    export(folder, program, "--adapter", tmp_path / "adapter", *LENGTH_OPTIONS)
    check_tokens(program, quantized(wrapped.merge_and_unload().requires_grad_(False)))


def check_tokens(program: Path, model: PreTrainedModel) -> None:
    """Against eager after a prompt, a token, another prompt and a token."""
    tokens, first, run = architectures.ids(sum(LENGTHS)), 0, Comparison(program)
    for length, eager in zip(LENGTHS, last_logits(model, tokens), strict=True):
        run.check(eager, tokens[:, first : first + length], torch.arange(first, first + length))
        first += length


class InAnyOrder(Comparison):
    """Of a model whose branches the Program has in another order than eager: codes cannot be set side by side."""

    def check(self, eager: Callable[[], torch.Tensor], *inputs: torch.Tensor) -> None:
        found = self.program(*inputs)
        error = float((found - eager()).norm() / found.norm())
        print(f"result {error:.1e}")
        assert error <= codes.EXACT


def planned(folder: Path) -> list[str]:
    """The lines of --dry-run, which writes nothing."""
    before = sorted(folder.parent.rglob("*"))
    result = CliRunner().invoke(main, ["export", str(folder), "--dry-run", *map(str, LENGTH_OPTIONS)])
    assert result.exit_code == 0, result.output
    assert sorted(folder.parent.rglob("*")) == before
    return str(result.output).splitlines()


def check_llama(folder: Path, program: Path) -> None:
    """The tokenizer and its template go along, and what was planned comes out."""
    fast, plan = words(folder), planned(folder)
    assert "model.tokenizer.json" in export(folder, program, *LENGTH_OPTIONS)
    found = Words(program.with_suffix(".tokenizer.json"), chat_template=TEMPLATE, bos_id=1, eos_id=2)
    assert (
        found.chat("w1 w2")
        == fast.apply_chat_template([{"role": "user", "content": "w1 w2"}], add_generation_prompt=True)["input_ids"]
    )
    check_plan(plan, folder, program)


def check_plan(lines: list[str], folder: Path, program: Path) -> None:
    """Files and dtypes, what is quantized how, and sizes that came out."""
    assert re.fullmatch(rf"reads: \d files of {folder}, 0\.1\d MB: 21 tensors of BF16", lines[0])
    assert [line.split(",")[0] for line in lines[1:-1]] == [
        "embeddings: quantized as 8w",
        "linears: quantized as 8da4w",
        "other parameters: in float32",
        "linears: quantized as 8da8w",
    ]
    # In groups of 32 with scales in float32: 4-bit linears, the table and the last linear of 8 bits, and norms.
    hidden, inner, keys = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["hidden_size"] // 2
    linears = SIZES["num_hidden_layers"] * hidden * (2 * hidden + 2 * keys + 3 * inner)
    size = linears * (1 / 2 + 4 / 32) + 2 * VOCABULARY * hidden * (1 + 4 / 32) + 4 * hidden * (2 * 2 + 1)
    assert lines[-1] == f"result: about {size / 1e6:.2f} MB; KV cache on the device 0.02 MB"
    head = hidden // SIZES["num_attention_heads"]
    tables = 2 * 4 * MAX_CONTEXT * head // 2  # of the rotation, whose halves are alike; no plan counts them
    constants = sum(map(len, zeropoint.inspect(program).constants.values()))
    assert constants == pytest.approx(size + tables, abs=256)


def last_logits(model: PreTrainedModel, tokens: torch.Tensor) -> Iterator[Callable[[], torch.Tensor]]:
    """Eager's logits [1, 1, vocabulary] after each part of the tokens."""
    cache = transformers.DynamicCache(config=model.config)
    for part in tokens.split(LENGTHS, 1):
        yield partial(last_logit, model, part, cache)


def last_logit(model: PreTrainedModel, part: torch.Tensor, cache: transformers.Cache) -> torch.Tensor:
    logits: torch.Tensor = model(part, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits


@pytest.mark.parametrize("name", ["BERT", pytest.param("ViT", marks=pytest.mark.slow)])
def test_encoder(name: str, tmp_path: Path) -> None:
    folder, program = tmp_path / "model", tmp_path / "model.pte"
    run = ENCODER_RUNS[name]
    module, inputs = run(folder)
    export(folder, program, "--task", "encode", *(["--max-prefill", 16] if name == "BERT" else []))
    Comparison(program).check(lambda: module(*inputs), *inputs)


def bert(folder: Path) -> tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]:
    """The first token's vector as it is, as sentence-transformers' files say."""
    model = saved(transformers.BertModel(transformers.BertConfig(**ENCODER)), folder, torch.float16)
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    for step, config in (("1_Pooling", pooling),):
        (folder / step).mkdir()
        (folder / step / "config.json").write_text(json.dumps(config))
    kinds = (("", "sentence_transformers.models.Transformer"), ("1_Pooling", "sentence_transformers.models.Pooling"))
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": kind} for path, kind in kinds]))
    model.pooler = None
    zeropoint.quantize(model)
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[:, 5:] = 0

    def eager(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden[:, 0]

    return eager, (architectures.ids(7), mask)


def vit(folder: Path) -> tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]:
    sizes = {name: ENCODER[name] for name in ENCODER if name != "vocab_size"}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=10)
    model = saved(transformers.ViTForImageClassification(config), folder, torch.bfloat16)
    zeropoint.llm.patches.replace_patch_convolutions(model)
    zeropoint.quantize(model)
    return lambda pixels: model(pixel_values=pixels).logits, (torch.randn(1, 3, 16, 16),)


ENCODER_RUNS = {"BERT": bert, "ViT": vit}

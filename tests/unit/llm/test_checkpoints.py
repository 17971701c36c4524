"""Folders that make no model: one line each, before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers
from torchao.quantization import (
    Int8DynamicActivationIntxWeightConfig,
    Int8WeightOnlyConfig,
    IntxUnpackedToInt8Tensor,
    IntxWeightOnlyConfig,
    PerGroup,
)
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LongT5Config,
    LongT5ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Speech2TextConfig,
    TorchAoConfig,
    WhisperConfig,
)

from zeropoint.cli.main import main
from zeropoint.errors import OptionError
from zeropoint.llm.checkpoints import Checkpoint, is_place
from zeropoint.llm.encoders import EncoderCheckpoint, find_encoder_source
from zeropoint.llm.export import TextExportOptions, check_positions, export_text_model, text_metadata
from zeropoint.llm.models import find_source, load_weights
from zeropoint.llm.plan import plan_text_model
from zeropoint.llm.seq2seq import start_tokens
from zeropoint.quantization.coverage import quantization_summary

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES_OF_BOTH = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 16, "encoder_ffn_dim": 8,
                 "decoder_ffn_dim": 8, "encoder_attention_heads": 1, "decoder_attention_heads": 1}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(**SIZES, vocab_size=40, num_key_value_heads=1, eos_token_id=[2, 3], tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="20KB")
    return folder


def changed(folder: Path, target: Path, **values: object) -> str:
    """A copy whose config.json says something else."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return str(target)


def test_what_a_name_may_be(llama: Path, tmp_path: Path) -> None:
    assert find_source("smollm2-135m").name == "smollm2-135m"
    assert find_source(str(llama)) == Checkpoint(str(llama))
    assert Checkpoint(str(llama)).name == llama.name
    assert find_source("owner/some-name") == Checkpoint("owner/some-name")
    assert Checkpoint("owner/some-name").name == "some-name"
    (tmp_path / "file").write_text("")
    for name, text in (
        (
            "gpt5",
            "model 'gpt5': unknown; offered smollm2-135m, .*, a folder of transformers' files, or an id owner/name",
        ),
        (str(tmp_path), "no config.json in it; need a folder of transformers' save_pretrained"),
        (str(tmp_path / "no"), "no: no such folder"),
        (str(tmp_path / "file"), "is a file; need a folder"),
    ):
        with pytest.raises(OptionError, match=rf"^export: .*{text}"):
            find_source(name)
    assert not is_place("gpt5")
    with pytest.raises(OptionError, match=r"^export: encoder 'gpt5': unknown; offered minilm-l6, vit-b16, a folder"):
        find_encoder_source("gpt5")


def test_weights_are_untied(llama: Path) -> None:
    model = load_weights(Checkpoint(str(llama)), n_layers=1)
    assert len(model.model.layers) == 1
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_missing_shard(llama: Path, tmp_path: Path) -> None:
    """transformers makes up what no file has, and says so in a warning alone."""
    folder = Path(changed(llama, tmp_path / "cut"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.norm.weight"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shard = next(path for path in folder.glob("*.safetensors") if holds(path, "model.norm.weight"))
    without(shard, "model.norm.weight")
    with pytest.raises(
        OptionError, match=r"^export: .*: no weight model\.norm\.weight in its files; is a shard missing\?$"
    ):
        Checkpoint(str(folder)).load()
    shard.unlink()
    with pytest.raises(OptionError, match=r"^export: [^\n]*model-0000[^\n]*$"):
        Checkpoint(str(folder)).load()


def holds(path: Path, name: str) -> bool:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return name in file.keys()


def without(path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    save_file({key: value for key, value in load_file(path).items() if key != name}, path, {"format": "pt"})


def quantized(folder: Path, config: object) -> LlamaForCausalLM:
    """A decoder that torchao quantized in bfloat16, saved by transformers."""
    float_folder = folder / "float"
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=40, num_key_value_heads=1, eos_token_id=2))
    llama.bfloat16().save_pretrained(float_folder)
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        float_folder, dtype=torch.bfloat16, quantization_config=TorchAoConfig(config)
    )
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("dynamic", [True, False])
def test_weights_of_torchao(dynamic: bool, tmp_path: Path) -> None:
    """The integers stay; their scales are float32 ones as the rest of the model, so that eager runs, too."""
    options = {"weight_dtype": torch.int4}
    config = (
        Int8DynamicActivationIntxWeightConfig(**options, weight_granularity=PerGroup(32))
        if dynamic
        else (IntxWeightOnlyConfig(**options, granularity=PerGroup(32)))
    )
    saved = quantized(tmp_path, config)
    source = Checkpoint(str(tmp_path))
    loaded = load_weights(source)
    for name, weight in saved.named_parameters():
        found = loaded.get_parameter(name)
        assert (type(found), found.dtype) == (type(weight), torch.float32)
        if isinstance(weight, IntxUnpackedToInt8Tensor):
            assert torch.equal(found.qdata, weight.qdata)
            assert torch.equal(found.scale, weight.scale.float())
            assert torch.equal(found.zero_point, weight.zero_point)
            assert found.activation_quantization == weight.activation_quantization
    assert len(quantization_summary(loaded).quantized) == 14
    assert loaded(torch.tensor([[1, 2, 3]])).logits.dtype is torch.float32
    plan = str(plan_text_model(source, TextExportOptions(max_context=64, max_prefill=8)))
    assert "weights: torchao's integers kept exactly, int4, groups of 32, " in plan
    with pytest.raises(OptionError, match=r"^export: recipe 8w: the weights are quantized already; leave the recipe"):
        export_text_model(source, tmp_path / "m.pte", TextExportOptions(recipe="8w", max_context=64, max_prefill=8))
    assert not list(tmp_path.glob("*.pte"))


def test_other_weights_of_torchao(tmp_path: Path) -> None:
    quantized(tmp_path, Int8WeightOnlyConfig())
    with pytest.raises(
        OptionError, match=r"^export: .*proj\.weight is torchao's Int8Tensor; offered IntxUnpackedToInt8"
    ):
        Checkpoint(str(tmp_path)).load()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"quantization_config": {"quant_method": "aqlm"}}, r"weights that aqlm quantized; offered float, "),
        ({"model_type": "no_such_model"}, r".*no_such_model"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            r"LlamaForSequenceClassification is no decoder; an enc",
        ),
        ({"vocab_size": 41}, r"model.embed_tokens.weight is \[40, 32\] in its files; config.json needs \[41, 32\]$"),
        ({"auto_map": {"AutoConfig": "x.Y"}, "model_type": "other"}, r".* contains custom code"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_folders_that_are_refused(values: dict[str, object], text: str, llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path / "changed", **values)
    with pytest.raises(OptionError, match=rf"^export: {folder}: (?:{text})") as caught:
        Checkpoint(folder).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [Qwen2Config, LlamaConfig])
def test_tokens_are_those_of_the_tokenizer_file(config: type[Qwen2Config | LlamaConfig], tmp_path: Path) -> None:
    """Of a Qwen2 folder transformers makes byte pairs without any merges, which encode every text to nothing."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    saved = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    saved.chat_template = "a template"
    saved.save_pretrained(tmp_path)
    config().save_pretrained(tmp_path)
    found = Checkpoint(str(tmp_path)).tokenizer()
    assert found is not None
    assert found("b a c").input_ids == [2, 1, 0]
    assert found.chat_template == "a template"


def test_tasks_that_do_not_fit(llama: Path, tmp_path: Path) -> None:
    BertModel(BertConfig(**SIZES, vocab_size=40)).save_pretrained(tmp_path / "bert")
    Speech2TextConfig().save_pretrained(tmp_path / "speech")
    with pytest.raises(OptionError, match=r"bert: BertModel is no decoder; an encoder takes --task encode$"):
        Checkpoint(str(tmp_path / "bert")).load()
    with pytest.raises(OptionError, match=r"LlamaForCausalLM is a decoder; leave --task encode out$"):
        EncoderCheckpoint(str(llama)).check_installed()
    with pytest.raises(
        OptionError, match=r"Speech2TextConfig is an encoder with a decoder that reads no text; offered"
    ):
        Checkpoint(str(tmp_path / "speech")).load()
    with pytest.raises(OptionError, match=r"is an encoder with a decoder; leave --task encode out$"):
        EncoderCheckpoint(str(tmp_path / "speech")).check_installed()
    with pytest.raises(OptionError, match=r"pooling 'max'; offered auto, mean, cls, none$"):
        EncoderCheckpoint(str(tmp_path / "bert"), "max").check_installed()


def test_pooling_that_is_not_offered(tmp_path: Path) -> None:
    BertModel(BertConfig(**SIZES, vocab_size=40)).save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "x.Pooling", "path": "1_Pooling"}]))
    with pytest.raises(
        OptionError, match=r"pooling_mode_max_tokens; offered pooling_mode_mean_tokens, pooling_mode_cls"
    ):
        EncoderCheckpoint(str(tmp_path)).load()
    assert EncoderCheckpoint(str(tmp_path), "mean").load().normalized


def test_special_tokens(llama: Path) -> None:
    """Ends as the generation config says; a model without a first token begins with the first end."""
    model: PreTrainedModel = load_weights(Checkpoint(str(llama)))
    model.config.bos_token_id = None
    found = text_metadata(model, None, TextExportOptions())
    assert (found["get_eos_ids"], found["get_bos_id"]) == ([2, 3], 2)
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = 5
    assert text_metadata(model, None, TextExportOptions())["get_eos_ids"] == [5]
    model.config.eos_token_id = None
    with pytest.raises(
        OptionError, match="the model names no end token; write eos_token_id into its generation_config"
    ):
        text_metadata(model, None, TextExportOptions())


def test_a_context_longer_than_the_model(llama: Path) -> None:
    config = Checkpoint(str(llama)).config()
    check_positions(config, TextExportOptions(max_context=2048))
    with pytest.raises(
        OptionError, match="export: max_context 2049; the model has 2048 positions; lower --max-context"
    ):
        check_positions(config, TextExportOptions(max_context=2049))
    with pytest.raises(OptionError, match="max_source 9: the model has no encoder; leave --max-source out"):
        check_positions(config, TextExportOptions(max_source=9))
    with pytest.raises(OptionError, match="max_source 1; need 2 to 1048576"):
        TextExportOptions(max_source=1)


def test_sources_longer_than_the_model() -> None:
    bart, whisper = BartConfig(max_position_embeddings=20), WhisperConfig(max_target_positions=20)
    check_positions(bart, TextExportOptions(max_context=20, max_prefill=20))
    with pytest.raises(OptionError, match="max_source 21; the model has 20 positions; lower --max-source"):
        check_positions(bart, TextExportOptions(max_context=20, max_prefill=20, max_source=21))
    with pytest.raises(OptionError, match="max_context 21; the model has 20 positions; lower --max-context"):
        check_positions(whisper, TextExportOptions(max_context=21, max_prefill=20))
    with pytest.raises(OptionError, match="an encoder whose source has one length; leave --max-source out"):
        check_positions(whisper, TextExportOptions(max_context=20, max_prefill=20, max_source=8))


def test_a_model_that_torch_export_cannot_trace(tmp_path: Path) -> None:
    """One line, and nothing written: this encoder asks for its tokens' number in Python."""
    sizes = {"vocab_size": 40, "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    folder, output = tmp_path / "model", tmp_path / "model.pte"
    LongT5ForConditionalGeneration(LongT5Config(**sizes, decoder_start_token_id=0)).save_pretrained(folder)
    result = CliRunner().invoke(main, ["export", str(folder), "-o", str(output), "--algorithm", "affine"])
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: export: model: torch.export cannot trace the model: ")
    assert "modeling_longt5.py" in line
    assert sorted(tmp_path.iterdir()) == [folder]


def test_first_tokens_of_an_answer() -> None:
    model = BartForConditionalGeneration(BartConfig(**SIZES_OF_BOTH, decoder_start_token_id=2))
    assert start_tokens(model) == [2]
    model.generation_config.forced_bos_token_id = 7
    assert start_tokens(model) == [2, 7]
    model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id = None
    with pytest.raises(OptionError, match="names no first token of an answer; write decoder_start_token_id"):
        start_tokens(model)

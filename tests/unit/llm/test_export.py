from __future__ import annotations

import pytest
import torch._dynamo.guards
from torch.export import ExportedProgram
from transformers import LlamaConfig, LlamaForCausalLM

from zeropoint.errors import OptionError
from zeropoint.llm.export import TextExportOptions, _simple_guards, export_decoder, lower_decoder
from zeropoint.lowering.options import CompileOptions


def small_decoder() -> LlamaForCausalLM:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, **sizes))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_context": 1}, r"export: max_context 1; need 2 to 1048576"),
        ({"max_prefill": 1}, r"export: max_prefill 1; need 2 to max_context, which is 512"),
        ({"max_context": 64}, r"export: max_prefill 128; need 2 to max_context, which is 64"),
    ],
)
def test_lengths_that_make_no_sense(options: dict[str, int], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        TextExportOptions(**options)


def test_no_time_goes_into_guards_that_nobody_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """And torch's own search is back afterwards."""
    searched = []

    def count(*given: object) -> None:
        searched.append(given)

    search = torch._dynamo.guards.PyExprCSEPass
    monkeypatch.setattr(search, "count", count)
    export_decoder(small_decoder(), max_context=16, max_prefill=8)
    assert not searched
    assert search.count is count


def test_a_pytorch_without_that_search_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._dynamo.guards, "PyExprCSEPass")
    with _simple_guards():
        assert not hasattr(torch._dynamo.guards, "PyExprCSEPass")


def test_a_decoder_is_traced_for_decompositions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """ExecuTorch traces it again where an operator is left that PyTorch would decompose: a fifth of a lowering."""
    traced = []
    decompose = ExportedProgram.run_decompositions

    def counted(program: ExportedProgram, table: dict[object, object]) -> ExportedProgram:
        traced.append(table)
        return decompose(program, table)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    lower_decoder(export_decoder(small_decoder(), max_context=16, max_prefill=8), CompileOptions(), {})
    assert traced == [{}]

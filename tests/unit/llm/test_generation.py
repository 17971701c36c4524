from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.llm.small import CONTEXT, METADATA, write
from zeropoint.errors import OptionError, RuntimeFailure
from zeropoint.llm.generation import TextProgram, Timing


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> TextProgram:
    return TextProgram(write(tmp_path_factory.mktemp("small") / "small.pte", METADATA))


def test_metadata(program: TextProgram) -> None:
    found = program.metadata
    assert (found.vocab_size, found.max_prefill, found.max_context, found.bos_id) == (40, 6, 16, 1)
    assert found.eos_ids == (7, 39)
    assert found.n_linears == 1


def test_ends_before_an_end_token(program: TextProgram) -> None:
    timing = Timing()
    assert list(program.generate([2], max_new_tokens=9, timing=timing)) == [3, 4, 5, 6]
    assert len(timing.seconds) == 5
    assert timing.first_s == timing.seconds[0]
    assert timing.tokens_per_s == pytest.approx(4 / sum(timing.seconds[1:]))


def test_ends_at_the_limit(program: TextProgram) -> None:
    timing = Timing()
    assert list(program.generate([2], max_new_tokens=1, timing=timing)) == [3]
    assert timing.tokens_per_s == 0.0


def test_ends_when_the_cache_is_full(program: TextProgram) -> None:
    assert list(program.generate([20] * (CONTEXT - 6), max_new_tokens=99)) == [21, 22]  # position 11 says: end
    assert list(program.generate([20] * (CONTEXT - 7), max_new_tokens=99)) == [21, 22, 23]


def test_long_prompts_go_in_pieces(program: TextProgram) -> None:
    assert int(program.prefill([1, 2, 3, 4, 5, 30, 31, 12]).argmax()) == 13


def test_delegation_is_what_ran(program: TextProgram) -> None:
    program.logits([1], 0)
    run = program.delegation()
    assert (run.n_delegated, run.n_linears, run.zero_points) == (1, 1, ("i8",))
    assert run.device


def test_prompts_that_do_not_fit(program: TextProgram) -> None:
    with pytest.raises(OptionError, match="generate: prompt: no tokens; write something"):
        program.generate([], max_new_tokens=1)
    with pytest.raises(
        OptionError, match=r"generate: prompt: 16 tokens; the cache holds 16, one of them for an answer"
    ):
        program.generate([1] * CONTEXT, max_new_tokens=1)


def test_more_tokens_than_one_call_takes(program: TextProgram) -> None:
    with pytest.raises(RuntimeFailure, match="forward: "):
        program.logits([1] * 7, 0)


def test_a_token_beyond_the_vocabulary(program: TextProgram) -> None:
    text = (
        r"^forward: call\[\d+\] \w+: rows of embedding.weight: element 0, computed on the device, is 40; need 0 to 39$"
    )
    with pytest.raises(RuntimeFailure, match=text):
        program.logits([40], 0)
    assert int(program.logits([3], 0).argmax()) == 4


def test_program_without_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "bare.pte", {})
    with pytest.raises(
        OptionError, match=r"bare\.pte: no method get_bos_id; need a text model that `zeropoint export`"
    ):
        TextProgram(path)

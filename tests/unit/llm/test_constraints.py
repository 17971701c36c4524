"""Random logits under a schema or a grammar give texts of it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from zeropoint.errors import OptionError
from zeropoint.llm.constraints import Constraint

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ab", "cd"]}, "age": {"type": "integer", "minimum": 10, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bytes as tokens, and an end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    path = tmp_path_factory.mktemp("words") / "m.tokenizer.json"
    backend.save(str(path))
    return path


def text_of(constraint: Constraint, words: Path, seed: int) -> str:
    """What is left of random choices, and that a token that is not allowed is refused."""
    generator, tokens = torch.Generator().manual_seed(seed), []
    while not constraint.is_done and len(tokens) < 300:
        logits = constraint.allow(torch.randn(257, generator=generator))
        assert bool(torch.isfinite(logits).any())
        token = int(logits.argmax())
        if token == 256:
            break
        tokens.append(token)
        constraint.accept(token)
    return Backend.from_file(str(words)).decode(tokens)


@pytest.mark.parametrize("seed", range(4))
def test_schema(words: Path, seed: int) -> None:
    found = json.loads(text_of(Constraint(words, 257, (256,), json_schema=json.dumps(SCHEMA)), words, seed))
    assert found["name"] in ("ab", "cd")
    assert 10 <= found["age"] <= 99


def test_grammar(words: Path) -> None:
    grammar = 'start: "yes " NUMBER | "no"\nNUMBER: /[0-9]{2,3}/'
    texts = {text_of(Constraint(words, 257, (256,), grammar=grammar), words, seed) for seed in range(6)}
    assert all(re.fullmatch(r"yes [0-9]{2,3}|no", text) for text in texts)


def test_refusals(words: Path) -> None:
    for options, text in (
        ({"json_schema": "{"}, "^generate: JSON schema: .*; need a JSON text$"),
        ({"json_schema": '{"type": "no such type"}'}, "^generate: schema or grammar: [^\n]*$"),
        ({"grammar": "start: ("}, "^generate: schema or grammar: [^\n]*$"),
    ):
        with pytest.raises(OptionError, match=text):
            Constraint(words, 257, (256,), **options)
    constraint = Constraint(words, 257, (256,), grammar='start: "no"')
    with pytest.raises(OptionError, match=r"^generate: schema or grammar: "):
        constraint.accept(0)


def test_without_llguidance(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(OptionError, match=r"^generate: schemas and grammars need llguidance; pip install llguidance$"):
        Constraint(words, 257, (256,), grammar='start: "no"')

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from zeropoint.errors import OptionError
from zeropoint.llm.tokenizer import Tokenizer

TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Bytes as tokens, and two special tokens after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(tmp_path / "m.tokenizer.json"))
    return tmp_path / "m.tokenizer.json"


def make(path: Path) -> Tokenizer:
    return Tokenizer(path, chat_template=TEMPLATE, bos_id=256, eos_id=257)


def test_chat_template_and_special_tokens(path: Path) -> None:
    words = make(path)
    tokens = words.chat("hé")
    assert [tokens[0], *tokens[-2:]] == [256, 257, 256]
    assert words.decode(tokens) == "hé"
    assert words.encode("hé") == tokens[1:-2]


def test_stream_gives_whole_characters_only(path: Path) -> None:
    words = make(path)
    stream = words.stream()
    pieces = [stream.add(token) for token in words.encode("aé€b")]
    assert pieces == ["a", "", "é", "", "", "€", "b"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no\.json: no such file; `zeropoint export` writes it"):
        make(tmp_path / "no.json")


def test_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(OptionError, match=r"bad\.json: .*; need a tokenizer\.json"):
        make(tmp_path / "bad.json")


def test_text_that_is_no_utf_8(path: Path) -> None:
    """Bytes of a command line, as Python gives them."""
    words = make(path)
    for read in (words.chat, words.encode):
        with pytest.raises(
            OptionError, match=r"^generate: prompt: b'\\xff' after 3 characters is no UTF-8; write it in UTF-8$"
        ):
            read(b"a b\xffc".decode("utf-8", "surrogateescape"))


def test_a_template_that_is_none(path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"^generate: the program's chat template: .*; give --raw, or export it again$"
    ):
        Tokenizer(path, chat_template="{% for", bos_id=256, eos_id=257).chat("hello")

"""The tokenizer.json beside a program, and the program's chat template. The work is that of tokenizers and jinja2."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jinja2
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from ..errors import OptionError
from .files import tokenizer_path
from .generation import TextMetadata
from .templates import Message, render


class Tokenizer:
    """Text to tokens, messages to tokens, tokens to text piece by piece. path: of the tokenizer.json."""

    def __init__(self, path: Path, *, chat_template: str, bos_id: int, eos_id: int) -> None:
        """Raises OptionError when there is no tokenizer at path."""
        if not path.is_file():
            raise OptionError(
                f"generate: {path}: no such file; `zeropoint export` writes it beside the program, or give --tokenizer"
            )
        try:
            self._backend: Backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself on a file that it cannot read
            raise OptionError(f"generate: {path}: {error}; need a tokenizer.json") from error
        self.path, self.chat_template = path, chat_template
        names = {"bos_token": bos_id, "eos_token": eos_id}
        self._special = {name: self._backend.id_to_token(token) or "" for name, token in names.items()}

    def chat(self, messages: str | Sequence[Message]) -> list[int]:
        """Messages, or one of the user, in the model's chat template, up to where the answer begins.

        A base model has no template: it continues one message, after the tokens that the tokenizer begins a text with.
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        for turn in turns:
            _checked(turn["content"])
        if not self.chat_template:
            if len(turns) != 1:
                raise OptionError("generate: the program has no chat template, so it continues one text; give one")
            return list(self._backend.encode(turns[0]["content"]).ids)
        try:
            text = render(self.chat_template, turns, self._special)
        except jinja2.TemplateError as error:
            raise OptionError(
                f"generate: the program's chat template: {error}; give --raw, or export it again"
            ) from error
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Text as it is: no token is added."""
        return list(self._backend.encode(_checked(text), add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._backend.decode(list(tokens), skip_special_tokens=True))

    def stream(self) -> TextStream:
        return TextStream(self._backend)


def _checked(text: str) -> str:
    """Raises OptionError on bytes of a command line that are no UTF-8, which Python keeps as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = os.fsencode(text[error.start]) if "\udc80" <= text[error.start] <= "\udcff" else text[error.start]
        raise OptionError(
            f"generate: prompt: {wrong!r} after {error.start} characters is no UTF-8; write it in UTF-8"
        ) from error
    return text


class TextStream:
    """Gives a token's text as soon as it is whole: a character may take several tokens."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        return self._stream.step(self._backend, token) or ""


def load_words(program: Path, metadata: TextMetadata, tokenizer: Path | None = None) -> Tokenizer:
    """The tokenizer beside a program, or another file, with the program's chat template."""
    return Tokenizer(
        tokenizer or tokenizer_path(program),
        chat_template=metadata.chat_template,
        bos_id=metadata.bos_id,
        eos_id=metadata.eos_ids[0],
    )

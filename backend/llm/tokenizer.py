"""The tokenizer.json beside a program, and the chat template inside it. The work is transformers' and tokenizers'."""

from __future__ import annotations

import os
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from ..errors import OptionError


class Tokenizer:
    """Text to tokens, a chat message to tokens, tokens to text piece by piece."""

    def __init__(self, path: Path, *, chat_template: str, bos_id: int, eos_id: int) -> None:
        """Raises OptionError when there is no tokenizer at path."""
        if not path.is_file():
            raise OptionError(
                f"generate: {path}: no such file; `zeropoint export` writes it beside the program, or give --tokenizer"
            )
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself on a file that it cannot read
            raise OptionError(f"generate: {path}: {error}; need a tokenizer.json") from error
        self._fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=backend, chat_template=chat_template
        )
        self._fast.bos_token = self._fast.convert_ids_to_tokens(bos_id)
        self._fast.eos_token = self._fast.convert_ids_to_tokens(eos_id)

    def chat(self, message: str) -> list[int]:
        """One user message in the model's chat template, up to where the answer begins.

        A base model has no template: it continues the message, after the tokens that the tokenizer begins a text with.
        """
        turns = [{"role": "user", "content": _checked(message)}]
        if not self._fast.chat_template:
            return list(self._fast.encode(message))
        try:
            text = self._fast.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja2's, which is no dependency of ours
            raise OptionError(
                f"generate: the program's chat template: {error}; give --raw, or export it again"
            ) from error
        return self.encode(str(text))

    def encode(self, text: str) -> list[int]:
        """Text as it is: no token is added."""
        return list(self._fast.encode(_checked(text), add_special_tokens=False))

    def decode(self, tokens: list[int]) -> str:
        return str(self._fast.decode(tokens, skip_special_tokens=True))

    def stream(self) -> TextStream:
        return TextStream(self._fast)


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

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self._backend = fast.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        return self._stream.step(self._backend, token) or ""

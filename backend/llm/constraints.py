"""Answers that follow a JSON schema or a grammar, by llguidance."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..errors import OptionError


class Constraint:
    """What the next token may be. grammar: llguidance's Lark syntax; json_schema: a schema's text."""

    def __init__(
        self, tokenizer: Path, vocab_size: int, eos_ids: tuple[int, ...], *, json_schema: str = "", grammar: str = ""
    ) -> None:
        """Raises OptionError without llguidance, and on a schema or a grammar that it refuses."""
        try:
            from llguidance import LLMatcher, LLTokenizer
            from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
        except ModuleNotFoundError as error:
            raise OptionError("generate: schemas and grammars need llguidance; pip install llguidance") from error
        self._fill = fill_next_token_bitmask
        words = LLTokenizer(str(tokenizer), n_vocab=vocab_size, eos_token=list(eos_ids))
        if json_schema:
            try:
                json.loads(json_schema)
            except json.JSONDecodeError as error:
                raise OptionError(f"generate: JSON schema: {error}; need a JSON text") from error
            grammar = LLMatcher.grammar_from_json_schema(json_schema)
        self._matcher = LLMatcher(words, grammar)
        self._check()
        self._mask = allocate_token_bitmask(1, vocab_size)

    def allow(self, logits: torch.Tensor) -> torch.Tensor:
        """-inf for the tokens that may not come next."""
        self._fill(self._matcher, self._mask)
        bits = torch.from_numpy(self._mask[0]).unsqueeze(-1) >> torch.arange(32, dtype=torch.int32) & 1
        return logits.masked_fill(bits.reshape(-1)[: len(logits)] == 0, -torch.inf)

    def accept(self, token: int) -> None:
        """The token that was chosen."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def is_done(self) -> bool:
        """Whether the text is complete and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            text = " ".join(str(self._matcher.get_error()).split())
            raise OptionError(f"generate: schema or grammar: {text}")

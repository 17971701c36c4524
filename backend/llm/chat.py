"""One question to a text program: its answer as it comes, then where it ran and what it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..runtime.running import peak_bytes
from .generation import Delegation, TextProgram
from .sampling import Sampling
from .text_model import Session, Statistics
from .tokenizer import load_words


@dataclass(frozen=True, slots=True)
class Answer:
    """Prints as the summary of the run. peak_bytes: of this process, software Vulkan's memory included."""

    text: str
    delegation: Delegation
    statistics: Statistics
    peak_bytes: int

    def __str__(self) -> str:
        run, stats = self.delegation, self.statistics
        return "\n".join(
            [
                f"linears on the device: {run.n_delegated} of {run.n_linears}",
                f"device:                {run.device}",
                f"zero points:           {', '.join(run.zero_points)}",
                f"time to first token:   {stats.first_s:.2f} s",
                f"tokens per second:     {stats.tokens_per_s:.1f}",
                f"ended by:              {stats.end}",
                f"peak memory:           {self.peak_bytes / 1e9:.2f} GB",
            ]
        )


def ask(
    program: Path,
    prompt: str | torch.Tensor,
    *,
    write: Callable[[str], None],
    tokenizer: Path | None = None,
    max_new_tokens: int = 128,
    raw: bool = False,
    start: str = "",
    sampling: Sampling | None = None,
    json_schema: str = "",
    grammar: str = "",
) -> Answer:
    """Loads a program and lets it answer; write gets each piece of text as soon as it is known.

    prompt: a text, or features of speech for an encoder that reads them; see TextModel.generate. tokenizer: a
    tokenizer.json; by default the one beside the program. raw: continue the prompt instead of putting it
    into the chat template. start: of the answer of an
    encoder's decoder, else the model's own. sampling: None for the likeliest tokens. json_schema, grammar: see
    Constraint.
    Raises OptionError on files or a prompt that do not fit.
    """
    text = TextProgram(program)
    words = load_words(program, text.metadata, tokenizer)
    session, pieces = Session(text, words), []
    found = session.respond(
        prompt,
        raw=raw,
        start=start,
        max_new_tokens=max_new_tokens,
        sampling=sampling or Sampling(),
        constraint=session.constraint(json_schema, grammar),
    )
    for piece in found:
        pieces.append(piece)
        write(piece)
    return Answer("".join(pieces), text.delegation(), session.statistics, peak_bytes())

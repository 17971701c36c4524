"""One question to a text program: its answer as it comes, then where it ran and what it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..running import peak_bytes
from .files import tokenizer_path
from .generation import Delegation, TextMetadata, TextProgram, Timing
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Answer:
    """Prints as the summary of the run. peak_bytes: of this process, software Vulkan's memory included."""

    text: str
    delegation: Delegation
    timing: Timing
    peak_bytes: int

    def __str__(self) -> str:
        run, timing = self.delegation, self.timing
        return "\n".join(
            [
                f"linears on the device: {run.n_delegated} of {run.n_linears}",
                f"device:                {run.device}",
                f"zero points:           {', '.join(run.zero_points)}",
                f"time to first token:   {timing.first_s:.2f} s",
                f"tokens per second:     {timing.tokens_per_s:.1f}",
                f"peak memory:           {self.peak_bytes / 1e9:.2f} GB",
            ]
        )


def ask(
    program: Path,
    prompt: str,
    *,
    write: Callable[[str], None],
    tokenizer: Path | None = None,
    max_new_tokens: int = 128,
    raw: bool = False,
) -> Answer:
    """Loads a program and lets it answer; write gets each piece of text as soon as it is known.

    tokenizer: a tokenizer.json; by default the one beside the program. raw: continue the prompt instead of putting it
    into the chat template. Raises OptionError on files or a prompt that do not fit.
    """
    text = TextProgram(program)
    words = load_words(program, text.metadata, tokenizer)
    timing, stream, pieces = Timing(), words.stream(), []
    tokens = words.encode(prompt) if raw else words.chat(prompt)
    for token in text.generate(tokens, max_new_tokens=max_new_tokens, timing=timing):
        pieces.append(stream.add(token))
        write(pieces[-1])
    return Answer("".join(pieces), text.delegation(), timing, peak_bytes())


def load_words(program: Path, metadata: TextMetadata, tokenizer: Path | None = None) -> Tokenizer:
    """The tokenizer beside a program, or another file, with the program's chat template."""
    return Tokenizer(
        tokenizer or tokenizer_path(program),
        chat_template=metadata.chat_template,
        bos_id=metadata.bos_id,
        eos_id=metadata.eos_ids[0],
    )

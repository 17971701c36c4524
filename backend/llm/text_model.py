"""A text program in Python: answers piece by piece, conversations that keep their caches, logits, embeddings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import OptionError
from ..runtime.running import open_program
from .constraints import Constraint
from .files import tokenizer_path
from .generation import TextProgram
from .sampling import Sampler, Sampling, Scores, StopText, check_fits
from .templates import Message
from .tokenizer import Tokenizer, load_words

_GREEDY = Sampling()


@dataclass(slots=True)
class Statistics:
    """Of one answer. prompt: its tokens; computed: those of them that were not in the cache; generated: new ones.

    end: why the answer ended: `end token`, `limit`, `stop text`, `schema`, `context`, or `` while it has not.
    """

    prompt: int = 0
    computed: int = 0
    generated: int = 0
    first_s: float = 0.0
    later_s: float = 0.0
    end: str = ""

    @property
    def tokens_per_s(self) -> float:
        """Of the tokens after the first; 0.0 when there was none."""
        return (self.generated - 1) / self.later_s if self.generated > 1 and self.later_s else 0.0

    def __str__(self) -> str:
        return (
            f"{self.prompt} tokens read, {self.computed} of them computed in {self.first_s:.2f} s; "
            f"{self.generated} generated, {self.tokens_per_s:.1f} a second; ended by {self.end}"
        )


@dataclass(slots=True)
class Session:
    """A conversation, or a text, and the KV cache that holds it. Sessions of one model share its weights.

    messages: so far, each with `role` and `content`; they may be changed between turns. computed: tokens that were put
    into the cache since the session began, which is what the conversation has cost. Not for several threads.

    >>> session = TextModel(path).session()
    >>> first = "".join(session.send("w1 w2", max_new_tokens=2))
    >>> second = "".join(session.send("w3", max_new_tokens=2))
    >>> [message["role"] for message in session.messages]
    ['user', 'assistant', 'user', 'assistant']
    >>> session.rewind()
    >>> len(session.messages)
    2
    """

    program: TextProgram
    words: Tokenizer
    messages: list[Message] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)
    computed: int = 0
    _held: list[int] = field(default_factory=list)  # tokens in the cache, from position 0 on
    _encoded: tuple[int, float] = (0, 0.0)  # positions and seconds of a source that no answer has counted yet

    def send(
        self,
        text: str,
        *,
        max_new_tokens: int = 512,
        sampling: Sampling = _GREEDY,
        json_schema: str = "",
        grammar: str = "",
    ) -> Iterator[str]:
        """The user says text; the answer as it comes. What was said so far is not computed again.

        The answer is in `messages` as far as it was drawn, also when its iterator is closed early. Raises OptionError
        at once on a text that leaves the context no room.
        """
        turns: list[Message] = [*self.messages, {"role": "user", "content": text}]
        pieces = self.continue_tokens(
            self.words.chat(turns),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            constraint=self.constraint(json_schema, grammar),
        )
        return self._turn(turns, pieces)

    def rewind(self) -> None:
        """Takes the last turn back: the user's last message and the answer to it."""
        while self.messages and self.messages[-1]["role"] != "user":
            self.messages.pop()
        if self.messages:
            self.messages.pop()

    def reset(self, system: str = "") -> None:
        """Begins anew, with what the system says, if anything."""
        self.messages = [{"role": "system", "content": system}] if system else []

    def continue_tokens(
        self,
        tokens: Sequence[int],
        *,
        max_new_tokens: int = 512,
        sampling: Sampling = _GREEDY,
        constraint: Constraint | None = None,
    ) -> Iterator[str]:
        """The text after these tokens, of which those that the cache holds already are not computed again."""
        prompt, limit = list(tokens), self.program.metadata.max_context
        self._check(sampling, constraint)
        if not prompt:
            raise OptionError("generate: prompt: no tokens; write something")
        if len(prompt) >= limit:
            raise OptionError(
                f"generate: prompt: {len(prompt)} tokens with all that was said; the context holds {limit}, one "
                "of them for an answer; /reset, shorten it, or export with a larger --max-context"
            )
        return self._stream(prompt, max_new_tokens, sampling, constraint)

    def respond(
        self,
        prompt: str | Sequence[Message] | torch.Tensor,
        *,
        raw: bool = False,
        start: str | Sequence[int] = (),
        max_new_tokens: int = 512,
        sampling: Sampling = _GREEDY,
        constraint: Constraint | None = None,
    ) -> Iterator[str]:
        """The answer to a prompt beside what the session has heard; see TextModel.generate."""
        self._check(sampling, constraint)
        found: Sequence[int] | torch.Tensor
        if isinstance(prompt, torch.Tensor):
            found = prompt
        else:
            found = self.words.encode(prompt) if raw and isinstance(prompt, str) else self.words.chat(prompt)
        metadata = self.program.metadata
        if self.program.has_encoder or isinstance(found, torch.Tensor):
            started = time.perf_counter()
            self._held.clear()
            self._encoded = self.program.encode(found).shape[1], time.perf_counter() - started
            found = (self.words.encode(start) if isinstance(start, str) else list(start)) or metadata.start_ids
        elif start:
            raise OptionError("generate: start: the model has no encoder; put it at the end of the prompt, with raw")
        return self.continue_tokens(found, max_new_tokens=max_new_tokens, sampling=sampling, constraint=constraint)

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """f32 [vocabulary] after these tokens; the first ones that the cache holds are not computed again.

        Raises OptionError on no tokens, on more than the context holds, and where the program gives the largest alone.
        """
        self.program.check_gives_all()
        return self._scores(tokens).logits

    def _scores(self, tokens: Sequence[int]) -> Scores:
        limit = self.program.metadata.max_context
        if not 0 < len(tokens) <= limit:
            raise OptionError(f"logits: {len(tokens)} tokens; need 1 to {limit}; give a text, or a shorter one")
        same = 0
        for held, token in zip(self._held, tokens[:-1], strict=False):  # the last one gives the logits
            if held != token:
                break
            same += 1
        del self._held[same:]
        step = self.program.metadata.max_prefill
        for start in range(same, len(tokens), step):
            part = list(tokens[start : start + step])
            found = self.program.scores(part, start)
            self._held += part
            self.computed += len(part)
        return found

    def _turn(self, turns: list[Message], pieces: Iterator[str]) -> Iterator[str]:
        answer: list[str] = []
        try:
            for piece in pieces:
                answer.append(piece)
                yield piece
        finally:
            self.messages = [*turns, {"role": "assistant", "content": "".join(answer)}]

    def _stream(
        self, prompt: list[int], max_new_tokens: int, sampling: Sampling, constraint: Constraint | None
    ) -> Iterator[str]:
        (n_encoded, encoding_s), self._encoded = self._encoded, (0, 0.0)
        stats = self.statistics = Statistics(prompt=n_encoded + len(prompt))
        before, started = self.computed, time.perf_counter()
        tokens, sampler, stop, stream = prompt, Sampler(sampling), StopText(sampling.stop), self.words.stream()
        scores = self._scores(tokens)
        stats.computed = n_encoded + self.computed - before
        stats.first_s = encoding_s + time.perf_counter() - started
        metadata, started = self.program.metadata, time.perf_counter()
        while True:
            if constraint is not None:
                scores = Scores(constraint.allow(scores.logits))
            token = sampler.choose(scores, tokens)
            if token in metadata.eos_ids:
                stats.end = "end token"
                break
            tokens = [*tokens, token]
            stats.generated, stats.later_s = stats.generated + 1, time.perf_counter() - started
            yield stop.add(stream.add(token))
            if constraint is not None:
                constraint.accept(token)
            stats.end = self._reason(stop, constraint, max_new_tokens, len(tokens))
            if stats.end:
                break
            scores = self._scores(tokens)
        yield stop.rest()

    def _reason(self, stop: StopText, constraint: Constraint | None, max_new_tokens: int, length: int) -> str:
        """Why an answer ends after its last token; empty when it goes on."""
        if stop.found:
            return "stop text"
        if constraint is not None and constraint.is_done:
            return "schema"
        if length >= self.program.metadata.max_context:
            return "context"
        return "limit" if self.statistics.generated >= max_new_tokens else ""

    def _check(self, sampling: Sampling, constraint: Constraint | None) -> None:
        check_fits(sampling, constrained=constraint is not None, top_logits=self.program.metadata.top_logits)

    def constraint(self, json_schema: str, grammar: str) -> Constraint | None:
        """For continue_tokens; None without a schema or a grammar. Raises OptionError on one that is refused."""
        if json_schema and grammar:
            raise OptionError("generate: a JSON schema and a grammar; give one of them")
        if not json_schema and not grammar:
            return None
        metadata = self.program.metadata
        return Constraint(
            self.words.path, metadata.vocab_size, metadata.eos_ids, json_schema=json_schema, grammar=grammar
        )


class TextModel:
    """A .pte that `zeropoint export` wrote, with the tokenizer beside it. Needs no transformers.

    >>> model = TextModel(path)
    >>> text = "".join(model.generate("w1 w2 w3", max_new_tokens=4))
    >>> [round(float(x), 1) for x in model.logits("w1 w2").softmax(-1).sum().reshape(1)]
    [1.0]
    """

    def __init__(self, path: str | Path, *, tokenizer: str | Path | None = None) -> None:
        """Raises OptionError when path is no text model of ours, RuntimeFailure when it does not load."""
        self.path = Path(path)
        self._program = TextProgram(self.path)
        self._words = load_words(self.path, self._program.metadata, Path(tokenizer) if tokenizer else None)
        self._own = Session(self._program, self._words)

    def session(self, system: str = "") -> Session:
        """A conversation with a cache of its own; the weights on the device are shared.

        Raises OptionError where a model has an encoder, which reads one source for one answer.
        """
        if self._program.has_encoder:
            raise OptionError(f"{self.path}: an encoder with a decoder holds no conversation; use zeropoint generate")
        made = Session(self._program.again(), self._words)
        made.reset(system)
        return made

    def generate(
        self,
        prompt: str | Sequence[Message] | torch.Tensor,
        *,
        raw: bool = False,
        start: str | Sequence[int] = (),
        max_new_tokens: int = 512,
        sampling: Sampling = _GREEDY,
        json_schema: str = "",
        grammar: str = "",
    ) -> Iterator[str]:
        """The answer to a prompt, or to messages with `role` and `content`, piece by piece.

        raw: continue the prompt as it is, without the chat template. A schema or a grammar (llguidance's Lark syntax)
        is followed to the letter. An encoder reads the prompt, or features f32 [1, mels, frames] of speech, and the
        decoder begins with `start`, tokens or their text (Whisper's language and task, say), else with what the model's
        configuration says. Raises OptionError at once on what leaves the context no room.

        >>> "".join(TextModel(path).generate([{"role": "user", "content": "w1"}], max_new_tokens=1)) != ""
        True
        """
        return self._own.respond(
            prompt,
            raw=raw,
            start=start,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            constraint=self._own.constraint(json_schema, grammar),
        )

    def logits(self, text: str | Sequence[int]) -> torch.Tensor:
        """f32 [vocabulary]: of the token after a text, taken as it is, or after tokens, in the decoder.

        >>> TextModel(path).logits([5, 6, 7]).dim()
        1
        """
        return self._own.logits(self._words.encode(text) if isinstance(text, str) else list(text))

    @property
    def statistics(self) -> Statistics:
        """Of the last answer of generate()."""
        return self._own.statistics


class TextEncoder:
    """A .pte that `zeropoint export --task encode` wrote of a model that reads text, with its tokenizer beside it.

    >>> TextEncoder(encoder_path).embed("w1 w2").shape
    torch.Size([64])
    """

    def __init__(self, path: str | Path, *, tokenizer: str | Path | None = None) -> None:
        """Raises OptionError without a tokenizer, RuntimeFailure when path does not load."""
        self._program = open_program(Path(path))
        self._forward = self._program.load_method("forward")
        words = Path(tokenizer) if tokenizer else tokenizer_path(Path(path))
        self._words = Tokenizer(words, chat_template="", bos_id=0, eos_id=0)

    def embed(self, text: str) -> torch.Tensor:
        """f32 [hidden] of a text, or [tokens, hidden] of an encoder that was exported with --pooling none."""
        ids = torch.tensor([self._words.chat(text)])
        (found,) = self._forward.execute([ids, torch.ones_like(ids)])
        vector: torch.Tensor = found[0]
        return vector

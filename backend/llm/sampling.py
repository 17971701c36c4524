"""How a token is chosen from logits. The filters are those of transformers' logits processors, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """temperature 0 takes the likeliest token; then the filters and the seed do nothing.

    top_k: of the likeliest tokens, 0 for all. top_p: of the fewest tokens that have this probability together. min_p:
    of tokens at least this share as likely as the likeliest. repetition_penalty: divides positive logits of tokens that
    occurred, and multiplies negative ones. seed: None for another answer every time. stop: texts that end an answer.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits = {
            "temperature": (0.0 <= self.temperature <= 100.0, "0 to 100"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0.0 < self.top_p <= 1.0, "more than 0, to 1"),
            "min_p": (0.0 <= self.min_p <= 1.0, "0 to 1"),
            "repetition_penalty": (0.0 < self.repetition_penalty <= 100.0, "more than 0, to 100"),
            "stop": (all(self.stop), "texts that are not empty"),
        }
        for name, (is_right, wanted) in limits.items():
            if not is_right:
                raise OptionError(f"generate: {name} {getattr(self, name)}; need {wanted}")


def largest(logits: torch.Tensor, count: int | None) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """What a model gives of its logits: of [1, 1, n] so many, the largest first, and their tokens, each [1, 1, count].

    None: all, as they are.
    """
    if count is None:
        return logits
    values, tokens = logits.topk(count)
    return values, tokens


@dataclass(frozen=True, slots=True)
class Scores:
    """What a call says of the next token: logits f32 [n] of `tokens` [n], the likeliest first.

    tokens: None where the logits are those of the whole vocabulary.
    """

    logits: torch.Tensor
    tokens: torch.Tensor | None = None

    def token(self, place: torch.Tensor) -> int:
        """The token whose logit has this place."""
        return int(place if self.tokens is None else self.tokens[place])

    def likeliest(self) -> int:
        return self.token(self.logits.argmax())


def check_fits(options: Sampling, *, constrained: bool, top_logits: int) -> None:
    """Raises OptionError on what needs more than the top_logits largest, where a program gives those alone (0: all)."""
    if not top_logits:
        return
    without = f"the program gives the {top_logits} largest logits; %s, or export without --top-logits"
    if constrained:
        raise OptionError(f"generate: a schema or a grammar: {without % 'leave it out'}")
    if options.repetition_penalty != 1.0:
        raise OptionError(f"generate: repetition_penalty {options.repetition_penalty}: {without % 'leave it out'}")
    if options.temperature and not 1 <= options.top_k <= top_logits:
        raise OptionError(f"generate: top_k {options.top_k}: {without % f'need 1 to {top_logits}'}")


class Sampler:
    """Draws tokens one after the other."""

    def __init__(self, options: Sampling) -> None:
        self._options = options
        self._generator = torch.Generator()
        if options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(options.seed)

    def choose(self, scores: Scores, seen: Sequence[int]) -> int:
        """scores: -inf where a token is not allowed, see check_fits; seen: tokens of the text so far."""
        logits = penalized(scores.logits, seen, self._options.repetition_penalty)
        if self._options.temperature == 0.0:
            return scores.token(logits.argmax())
        weights = filtered(logits / self._options.temperature, self._options).softmax(-1)
        return scores.token(torch.multinomial(weights, 1, generator=self._generator)[0])


def penalized(logits: torch.Tensor, seen: Sequence[int], penalty: float) -> torch.Tensor:
    """Tokens that occurred made less likely by a penalty above 1."""
    if penalty == 1.0 or not seen:
        return logits
    tokens = torch.tensor(sorted(set(seen)))
    values = logits[tokens]
    return logits.index_copy(0, tokens, torch.where(values < 0, values * penalty, values / penalty))


def filtered(logits: torch.Tensor, options: Sampling) -> torch.Tensor:
    """-inf for what top_k, top_p and min_p leave out; the likeliest token always stays."""
    if 0 < options.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(options.top_k).values[-1], -torch.inf)
    if options.top_p < 1.0:
        ordered, places = logits.sort()
        out = ordered.softmax(-1).cumsum(-1) <= 1 - options.top_p
        out[-1] = False
        logits = logits.index_fill(0, places[out], -torch.inf)
    if options.min_p > 0.0:
        likely = logits.softmax(-1)
        logits = logits.masked_fill(likely < options.min_p * likely.max(), -torch.inf)
    return logits


class StopText:
    """Cuts a stream of text at the first of some texts, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = tuple(stops), ""
        self.found = False

    def add(self, piece: str) -> str:
        """What of the text so far is certain to be before a stop."""
        self._held += piece
        places = [place for place in (self._held.find(stop) for stop in self._stops) if place >= 0]
        if places:
            text, self._held, self.found = self._held[: min(places)], "", True
            return text
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def rest(self) -> str:
        """What was held back, once no more text comes."""
        text, self._held = self._held, ""
        return text

    def _overlap(self, stop: str) -> int:
        """Characters at the end of the held text with which a stop begins."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if stop.startswith(self._held[-size:])), 0)

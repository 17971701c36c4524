"""Filters as transformers' logits processors have them, seeds, and stops."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from zeropoint.errors import OptionError
from zeropoint.llm.sampling import Sampler, Sampling, Scores, StopText, check_fits, filtered, penalized

SEEN = [3, 5, 5, 90]


def wanted(logits: torch.Tensor, options: Sampling) -> torch.Tensor:
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(options.repetition_penalty)])
    steps.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        steps.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        steps.append(TopPLogitsWarper(options.top_p))
    if options.min_p:
        steps.append(MinPLogitsWarper(options.min_p))
    return steps(torch.tensor([SEEN]), logits[None].clone())[0]


@pytest.mark.parametrize(
    "options",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.0, top_k=7),
        Sampling(temperature=2.0, top_k=500),
        Sampling(temperature=0.5, top_p=0.4),
        Sampling(temperature=1.0, top_p=1e-6),
        Sampling(temperature=1.3, min_p=0.2),
        Sampling(temperature=1.0, repetition_penalty=1.7),
        Sampling(temperature=0.8, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=0.6),
    ],
    ids=str,
)
def test_as_transformers(options: Sampling) -> None:
    for seed in range(4):
        logits = 3 * torch.randn(97, generator=torch.Generator().manual_seed(seed))
        found = filtered(penalized(logits, SEEN, options.repetition_penalty) / options.temperature, options)
        torch.testing.assert_close(found, wanted(logits, options), rtol=1e-6, atol=1e-6)
        assert torch.isfinite(found).any()


def test_seeds_and_temperature() -> None:
    logits = torch.randn(50)
    options = Sampling(temperature=5.0, seed=3)
    runs = [[Sampler(options).choose(Scores(logits), ()) for _ in range(1)] for _ in range(2)]
    assert runs[0] == runs[1]
    one, other = Sampler(options), Sampler(Sampling(temperature=5.0, seed=4))
    assert [one.choose(Scores(logits), ()) for _ in range(20)] != [other.choose(Scores(logits), ()) for _ in range(20)]
    assert Sampler(Sampling(seed=1)).choose(Scores(logits), ()) == int(logits.argmax())
    counts = (
        torch.bincount(torch.tensor([one.choose(Scores(logits / 5), ()) for _ in range(4000)]), minlength=50) / 4000
    )
    torch.testing.assert_close(counts, (logits / 25).softmax(-1), rtol=0, atol=0.02)


@pytest.mark.parametrize("options", [Sampling(), Sampling(temperature=1.5, top_k=5, top_p=0.8, min_p=0.05, seed=7)])
def test_of_the_largest_logits_alone(options: Sampling) -> None:
    """The same tokens as of all logits, as often."""
    logits = torch.randn(500, generator=torch.Generator().manual_seed(2))
    top = Scores(*logits.topk(9))
    assert top.likeliest() == int(logits.argmax())
    check_fits(options, constrained=False, top_logits=9)
    whole, few = Sampler(options), Sampler(options)
    counts = [
        torch.bincount(torch.tensor([sampler.choose(scores, ()) for _ in range(3000)]), minlength=500) / 3000
        for sampler, scores in ((whole, Scores(logits)), (few, top))
    ]
    torch.testing.assert_close(counts[0], counts[1], rtol=0, atol=0.04)
    assert torch.equal(counts[0] > 0, counts[1] > 0)


@pytest.mark.parametrize(
    ("options", "constrained", "text"),
    [
        (Sampling(), True, "a schema or a grammar: the program gives the 9 largest logits; leave it out, or export"),
        (Sampling(repetition_penalty=1.1), False, "repetition_penalty 1.1: the program gives the 9 largest logits; "),
        (Sampling(temperature=0.5), False, "top_k 0: the program gives the 9 largest logits; need 1 to 9, or export"),
        (Sampling(temperature=0.5, top_k=10), False, "top_k 10: the program gives the 9 largest logits; need 1 to 9"),
    ],
)
def test_what_needs_all_logits(options: Sampling, constrained: bool, text: str) -> None:
    with pytest.raises(OptionError, match=f"^generate: {text}.*without --top-logits$"):
        check_fits(options, constrained=constrained, top_logits=9)
    check_fits(options, constrained=constrained, top_logits=0)


def test_a_likeliest_token_that_occurred_is_penalized() -> None:
    logits = torch.tensor([1.0, 0.9, -5.0])
    assert Sampler(Sampling(repetition_penalty=1.2)).choose(Scores(logits), [0]) == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"temperature": -0.1}, "temperature -0.1; need 0 to 100"),
        ({"temperature": float("nan")}, "temperature nan; need 0 to 100"),
        ({"top_k": -1}, "top_k -1; need 0 or more"),
        ({"top_p": 0.0}, "top_p 0.0; need more than 0, to 1"),
        ({"min_p": 1.5}, "min_p 1.5; need 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0; need more than 0, to 100"),
        ({"stop": ("",)}, r"stop \('',\); need texts that are not empty"),
    ],
)
def test_values_that_make_no_sense(values: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=f"^generate: {text}$"):
        Sampling(**values)


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "found"),
    [
        (("END",), ["ab E", "N", "D cd"], ["ab ", "", ""], True),
        (("END",), ["ab E", "N", "x"], ["ab ", "", "ENx"], False),
        (("END", "b"), ["aEb"], ["aE"], True),
        (("aa",), ["a", "ba", "a"], ["", "ab", ""], True),
        ((), ["ab", "c"], ["ab", "c"], False),
    ],
)
def test_stops(stops: tuple[str, ...], pieces: list[str], shown: list[str], found: bool) -> None:
    stop = StopText(stops)
    assert [stop.add(piece) for piece in pieces] == shown
    assert stop.found == found


def test_what_was_held_back_is_not_lost() -> None:
    stop = StopText(("END",))
    assert (stop.add("ab EN"), stop.rest(), stop.rest()) == ("ab ", "EN", "")

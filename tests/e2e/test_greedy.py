"""Trained models with all their layers: greedy tokens against eager PyTorch, by teacher forcing. Exports for minutes.

Many layers of int8 activations are chaotic: a code that flips at a rounding tie moves a row by a step, which flips more
codes in the next layer. Eager PyTorch whose embeddings carry one unit in the last place of noise already chooses other
tokens in some steps. Ours may not be farther off than that.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
from dataclasses import dataclass, field, replace

import pytest
import torch

from tests.e2e import smollm2
from zeropoint.llm.export import TextExportOptions
from zeropoint.llm.generation import TextProgram
from zeropoint.llm.models import find_model
from zeropoint.options import CompileOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("validated")]
GEMMA = "gemma3-270m"
HALF = replace(smollm2.INT8, program=CompileOptions(compute_dtype="f16"))
CASES = [
    pytest.param(smollm2.NAME, smollm2.INT8, 128, 211, id="smollm2-int8"),
    pytest.param(smollm2.NAME, smollm2.FLOAT, 64, 211, id="smollm2-float32"),
    pytest.param(smollm2.NAME, HALF, 200, 211, id="smollm2-f16"),
    pytest.param(
        GEMMA,
        smollm2.INT8,
        128,
        127,
        id="gemma3",
        marks=pytest.mark.skipif(
            importlib.util.find_spec(find_model(GEMMA).module) is None,
            reason="not installed: who installs it accepts the Gemma terms of use",
        ),
    ),
]


@dataclass
class Distance:
    """Of logits from eager's, over many steps.

    others: steps in which another token is the best. excused: those of them in which eager was undecided.
    """

    relative: list[float] = field(default_factory=list)
    others: int = 0
    excused: int = 0

    def add(self, steps: list[smollm2.Step], found: list[torch.Tensor]) -> None:
        for step, logits in zip(steps, found, strict=True):
            self.relative.append(float((logits - step.logits).norm() / step.logits.norm()))
            if int(logits.argmax()) != step.token:
                self.others += 1
                self.excused += step.margin <= smollm2.UNDECIDED

    def median(self) -> float:
        return statistics.median(self.relative)

    def __str__(self) -> str:
        return (
            f"{self.others} of {len(self.relative)} tokens differ ({self.excused} where eager was undecided), "
            f"logits by {self.median():.2e} in the median and {max(self.relative):.2e} at most"
        )


@pytest.mark.parametrize(("name", "options", "n_tokens", "n_linears"), CASES)
def test_as_near_to_eager_as_eager_is_to_itself(
    name: str, options: TextExportOptions, n_tokens: int, n_linears: int
) -> None:
    """Greedy tokens on five prompts."""
    path = smollm2.exported(options, None, name)
    program, model = TextProgram(path), smollm2.eager(options, None, name)
    ours, noisy = Distance(), Distance()
    for prompt in smollm2.PROMPTS:
        tokens = smollm2.words_of(path, program).chat(prompt)
        steps = smollm2.greedy(model, tokens, n_tokens)
        chosen = [step.token for step in steps]
        ours.add(steps, smollm2.forced(program, tokens, chosen))
        noise = 2.0**-11 if options.program.compute_dtype == "f16" else 2.0**-24
        noisy.add(steps, smollm2.forced_eager(model, tokens, chosen, noise=noise))
    print(f"\nours: {ours}\neager with one unit of noise: {noisy}")
    assert ours.median() <= 1.25 * noisy.median()
    assert ours.others <= noisy.others + 3 * math.sqrt(noisy.others + 1)
    run = program.delegation()
    assert (run.n_delegated, run.n_linears) == (n_linears, n_linears)

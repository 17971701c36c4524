"""The demo's model: greedy tokens against eager PyTorch, by teacher forcing, and the same bytes from zeropoint-run.

Its first two layers; all thirty in test_greedy.py.
"""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner
from torch import nn

import zeropoint
from tests.e2e import smollm2
from tests.op.by_day import by_day
from zeropoint.llm.files import tokenizer_path
from zeropoint.llm.generation import TextProgram, Timing
from zeropoint.runtime import player
from zeropoint.runtime.library import library_path

pytestmark = pytest.mark.usefixtures("validated")

EXCUSED_SHARE = 0.02


@pytest.fixture(scope="module")
def path() -> Path:
    return smollm2.exported(smollm2.SMALL, smollm2.FEW_LAYERS)


@pytest.fixture(scope="module")
def program(path: Path) -> TextProgram:
    return TextProgram(path)


def compare(model: nn.Module, program: TextProgram, path: Path, prompts: tuple[str, ...], n_steps: int) -> None:
    """Fails on a token that eager would not have chosen, unless eager itself was undecided; prints how many were.

    Eager would have chosen a token that it chooses when its embeddings move by a rounding unit, too: then a code at a
    tie falls the other way, and the logits move by a hundredth. So there may be as many others as eager then has.
    """
    words = smollm2.words_of(path, program)
    excused, worst, allowed = 0, 0.0, EXCUSED_SHARE * len(prompts) * n_steps
    for prompt in prompts:
        tokens = words.chat(prompt)
        steps = smollm2.greedy(model, tokens, n_steps)
        found = smollm2.forced(program, tokens, [step.token for step in steps])
        pairs = list(zip(steps, found, strict=True))
        worst = max(worst, *(float((logits - step.logits).norm() / step.logits.norm()) for step, logits in pairs))
        others = {index: int(item.argmax()) for index, (step, item) in enumerate(pairs) if item.argmax() != step.token}
        noisy = noisy_choices(model, tokens, steps) if others else []
        for index, token in others.items():
            if token not in (run[index] for run in noisy):
                margin = steps[index].margin
                assert margin <= smollm2.UNDECIDED, f"{prompt!r} step {index}: {token}, eager's margin {margin:.4f}"
        wanted = [step.token for step in steps]
        excused += len(others)
        allowed += max((sum(map(int.__ne__, run, wanted)) for run in noisy), default=0)
    print(f"\n{excused} of {len(prompts) * n_steps} steps excused, {allowed:.1f} allowed, logits differ by {worst:.1e}")
    assert excused <= allowed


def noisy_choices(model: nn.Module, prompt: list[int], steps: list[smollm2.Step]) -> list[list[int]]:
    """Eager's token at every step, in four runs whose embeddings carry noise of a rounding unit."""
    fed = [step.token for step in steps]
    runs = (smollm2.forced_eager(model, prompt, fed, noise=2.0**-24, seed=seed) for seed in range(4))
    return [[int(logits.argmax()) for logits in run] for run in runs]


def test_greedy_tokens_of_one_prompt(program: TextProgram, path: Path) -> None:
    model = smollm2.eager(smollm2.SMALL, smollm2.FEW_LAYERS)
    compare(model, program, path, smollm2.PROMPTS[:1], 16)


def test_every_linear_runs_on_the_device_with_int8_zero_points(program: TextProgram) -> None:
    program.prefill([1, 2, 3])
    run = program.delegation()
    assert (run.n_delegated, run.n_linears, run.zero_points) == (15, 15, ("i8",))
    assert run.device


@pytest.mark.parametrize(
    ("disabled", "weight_scales"),
    by_day(
        itertools.product(("", "is_cpu"), (smollm2.SMALL.weight_scales, "f16")),
        lambda disabled, weight_scales: disabled == "is_cpu" and weight_scales != "f16",
    ),
)
def test_on_a_device_with_no_more_than_vulkan_1_1_demands(
    disabled: str, weight_scales: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call is right, with weight scales of 16 bits too; a prompt, and a token after it."""
    path = smollm2.exported(replace(smollm2.SMALL, weight_scales=weight_scales), smollm2.FEW_LAYERS)
    monkeypatch.setenv("ZEROPOINT_LIMITS", str(Path(__file__).parents[1] / "vulkan_1_1.limits"))
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    for ids, start in (([[1, 4093, 198, 504, 7]], 0), ([[42]], 5)):
        tokens = torch.tensor(ids)
        verified = zeropoint.verify(path, [tokens, start + torch.arange(tokens.shape[1])])
        assert verified.is_right, verified.verdict()


def test_prompt_in_pieces_equals_prompt_at_once(program: TextProgram) -> None:
    tokens = [int(t) for t in torch.randint(3, 40_000, (20,), generator=torch.Generator().manual_seed(0))]
    at_once = program.prefill(tokens)
    for position, token in enumerate(tokens):
        one_by_one = program.logits([token], position)
    torch.testing.assert_close(one_by_one, at_once, rtol=1e-2, atol=1e-2 * float(at_once.abs().max()))


def test_long_prompt_takes_several_calls(program: TextProgram) -> None:
    limit = program.metadata.max_prefill
    tokens = [int(t) for t in torch.randint(3, 40_000, (limit + 3,), generator=torch.Generator().manual_seed(1))]
    whole = program.prefill(tokens)
    program.prefill(tokens[: limit - 5])
    pieces = program.logits(tokens[limit - 5 :], limit - 5)
    torch.testing.assert_close(pieces, whole, rtol=1e-2, atol=1e-2 * float(whole.abs().max()))


@pytest.mark.parametrize("n_tokens", by_day([(64,), (256,)], lambda n_tokens: n_tokens == 64))
def test_decoding_records_once_and_allocates_nothing(program: TextProgram, n_tokens: int) -> None:
    """Every token is at another position."""
    token = int(program.prefill([1, 4093, 198, 504]).argmax())
    prefilled = player.counters()
    token = int(program.logits([token], 4).argmax())
    first = player.counters()
    for position in range(5, 4 + n_tokens):
        token = int(program.logits([token], position).argmax())
    last = player.counters()
    assert last["executes"] - prefilled["executes"] == n_tokens
    assert last["recordings"] - prefilled["recordings"] <= 2
    assert last["device_allocations"] == first["device_allocations"]


@pytest.mark.parametrize("longest", by_day([(33,), (None,)], lambda longest: longest == 33))
def test_prompts_of_twenty_lengths(program: TextProgram, longest: int | None) -> None:
    """Each equals the same tokens one by one, as far as rounding decides a code."""
    limit = program.metadata.max_prefill
    longest = longest or limit
    tokens = [int(t) for t in torch.randint(3, 40_000, (limit,), generator=torch.Generator().manual_seed(2))]
    one_by_one = [program.logits([token], position) for position, token in enumerate(tokens[:longest])]
    lengths = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 97, limit - 1, limit]
    for length in (length for length in lengths if length <= longest):
        wanted = one_by_one[length - 1]
        found = program.prefill(tokens[:length])
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max()))


def test_executorch_s_text_runner_generates_the_same_text(program: TextProgram, path: Path) -> None:
    words, prompt = smollm2.words_of(path, program), "Once upon a time there was"
    wanted = words.decode(list(program.generate(words.encode(prompt), max_new_tokens=12)))
    pieces: list[str] = []
    config = GenerationConfig(max_new_tokens=12, temperature=0.0, echo=False)
    TextLLMRunner(str(path), str(tokenizer_path(path))).generate(prompt, config, pieces.append)
    assert "".join(pieces) == wanted


def test_generation_stops_at_the_limit_and_starts_again_from_nothing(program: TextProgram, path: Path) -> None:
    prompt = smollm2.words_of(path, program).chat(smollm2.PROMPTS[0])
    timing = Timing()
    first = list(program.generate(prompt, max_new_tokens=5, timing=timing))
    assert len(first) == 5
    assert len(timing.seconds) == 5
    assert list(program.generate(prompt, max_new_tokens=5)) == first


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[Path, Path]:
    ids, positions = tmp_path / "ids.npy", tmp_path / "positions.npy"
    np.save(ids, np.array([[1, 4093, 198, 504]], np.int64))
    np.save(positions, np.arange(4, dtype=np.int64))
    return ids, positions


def test_zeropoint_run_gives_the_same_bytes(program: TextProgram, path: Path, arrays: tuple[Path, Path]) -> None:
    output = arrays[0].parent / "out"
    runner = library_path().with_name("zeropoint-run")
    command = [runner, path, "--input", arrays[0], "--input", arrays[1], "--output", output]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = program.logits(np.load(arrays[0])[0].tolist(), 0)
    assert np.load(output / "output_0.npy").tobytes() == wanted.numpy().tobytes()

"""Decoding speed of a text program, beside the speed that its linears alone would give.

    zeropoint export smollm2-135m -o smollm2.pte
    python bench/decode.py smollm2.pte [--tokens 32] [--prompt-tokens 16] [--alone]

Prints the median and the spread of a step's wall time through executorch.runtime (with --alone through the player by
itself), and the sum of the median device times of its linear kernels, with what is fused into them, taken by timestamps
in a run of its own with a barrier after each call. Exits with 1 below --least.
"""

import statistics
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch

from zeropoint.export.inspection import inspect
from zeropoint.llm.generation import TextProgram
from zeropoint.runtime import player

WARM_UP_S = 2.0  # until a GPU runs at its full clock


class Alone:
    """The one delegate of a text program, without ExecuTorch around it."""

    def __init__(self, path: Path) -> None:
        found = inspect(path)
        (program,) = found.programs
        self._loaded = player.LoadedProgram(program, {key: bytes(data) for key, data in found.constants.items()})

    def prefill(self, tokens: list[int]) -> torch.Tensor:
        return self.logits(tokens, 0)

    def logits(self, tokens: list[int], position: int) -> torch.Tensor:
        ids, positions = np.array([tokens], np.int64), np.arange(position, position + len(tokens), dtype=np.int64)
        return torch.from_numpy(self._loaded.execute([ids, positions])[0])


def walk(text: TextProgram | Alone, n_prompt: int, n_tokens: int) -> list[float]:
    """Seconds of each step after a prompt and steps that nobody times."""
    token, seconds = int(text.prefill(list(range(3, 3 + n_prompt))).argmax()), []
    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        token = int(text.logits([token], n_prompt).argmax())
    for position in range(n_prompt, n_prompt + n_tokens):
        started = time.perf_counter()
        token = int(text.logits([token], position).argmax())
        seconds.append(time.perf_counter() - started)
    return seconds


def kernel_times(path: Path, n_prompt: int, n_tokens: int) -> dict[str, float]:
    """By kernel, the seconds that its calls take in the median step."""
    before = {live.id for live in player.programs()}
    with player.load_flags(profile=True):
        text = TextProgram(path)
    own = [live.id for live in player.programs() if live.id not in before]
    token, steps = int(text.prefill(list(range(3, 3 + n_prompt))).argmax()), []
    for position in range(n_prompt, n_prompt + n_tokens):
        token = int(text.logits([token], position).argmax())
        sums: dict[str, float] = {}
        for pick in (pick for live in own for pick in player.picks_of(live)):
            sums[pick.kernel] = sums.get(pick.kernel, 0.0) + (pick.time_ns or 0) * 1e-9
        steps.append(sums)
    return {kernel: statistics.median(step[kernel] for step in steps) for kernel in steps[0]}


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--tokens", default=32, show_default=True)
@click.option("--prompt-tokens", default=16, show_default=True)
@click.option("--alone", is_flag=True, help="Time the player by itself, without ExecuTorch.")
@click.option("--least", default=0.0, show_default=True, help="Of the rate that the linears alone would give.")
def main(path: Path, tokens: int, prompt_tokens: int, alone: bool, least: float) -> None:
    text = Alone(path) if alone else TextProgram(path)
    seconds = walk(text, prompt_tokens, tokens)
    median = statistics.median(seconds)
    print(f"device            {', '.join({player.device_of(live.id) for live in player.programs()})}")
    print(f"tokens per second {1 / median:.2f} ({min(seconds) * 1e3:.2f} to {max(seconds) * 1e3:.2f} ms a step)")
    times = kernel_times(path, prompt_tokens, min(tokens, 8))
    linears = sum(value for kernel, value in times.items() if kernel.startswith(("linear_", "row_linear")))
    print(f"linears alone     {1 / linears:.2f} tokens per second ({linears * 1e3:.2f} ms a step)")
    print(f"share             {linears / median:.2f}")
    for kernel, value in sorted(times.items(), key=lambda item: -item[1]):
        print(f"  {kernel:28} {value * 1e3:8.3f} ms")
    if linears / median < least:
        sys.exit(f"{linears / median:.2f} of the linears' own rate; need {least}")


if __name__ == "__main__":
    main()

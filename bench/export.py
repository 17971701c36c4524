"""How the time of an export grows with the layers: CPU seconds of each step, and its growth from one depth to the next.

    python bench/export.py [--layers 16 32] [--hidden 256]
    python bench/export.py --model smollm2-135m

A Llama of random weights, 8da4w, one thread. Each depth runs in a process of its own, so that its memory is its own.
Or a whole `zeropoint export`, of what is named as there, with the steps that it shows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import process_time

STEPS = ("quantize", "torch.export", "lower", "fusion", "to_executorch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--model")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure, given.hidden)))
        return
    if given.model is not None:
        measure_whole(given.model)
        return
    print(f"{'layers':>8}" + "".join(f"{step:>16}" for step in (*STEPS, "peak MB")))
    before: dict[str, float] = {}
    for n_layers in given.layers:
        command = [sys.executable, __file__, "--measure", str(n_layers), "--hidden", str(given.hidden)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        cells = [_cell(found[step], before.get(step)) for step in STEPS]
        print(f"{n_layers:>8}" + "".join(f"{cell:>16}" for cell in (*cells, f"{found['peak MB']:.0f}")), flush=True)
        before = found


def _cell(seconds: float, before: float | None) -> str:
    return f"{seconds:.2f} s" if not before else f"{seconds:.2f} s x{seconds / before:.2f}"


def measure_whole(model: str) -> None:
    """Prints by step of an export the CPU seconds of all threads, and the peak of the memory so far; imports first."""
    from zeropoint.llm.export import export_text_model

    names, ends = ["imports"], list[tuple[float, float]]()

    def begin(step: str, done: int = 0, total: int = 0) -> None:
        if done:
            return
        ends.append((process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        names.append(step)

    with tempfile.TemporaryDirectory() as folder:
        export_text_model(model, Path(folder, "model.pte"), progress=begin)
        begin("all")
    for step, start, (end, peak) in zip(names, [0.0, *(end for end, _ in ends)], ends, strict=False):
        print(f"{step:>16} {end - start:8.1f} s {peak:8.0f} MB")
    print(f"{'all':>16} {ends[-1][0]:8.1f} s {ends[-1][1]:8.0f} MB")


def measure(n_layers: int, hidden: int) -> dict[str, float]:
    """CPU seconds by step; fusion is a part of lower."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from zeropoint.export import preprocess
    from zeropoint.llm.export import TextExportOptions, export_decoder, lower_decoder, quantize_text_model
    from zeropoint.llm.shape_rules import quick_shapes

    torch.set_num_threads(1)
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=n_layers, num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64, vocab_size=1024, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    options = TextExportOptions(recipe="8da4w")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    seconds = {}
    start = process_time()

    def lap(step: str) -> None:
        nonlocal start
        now = process_time()
        seconds[step], start = now - start, now

    quantize_text_model(model, options)
    lap("quantize")
    with quick_shapes():
        exported = export_decoder(model, max_context=512, max_prefill=128)
        lap("torch.export")
        seconds["fusion"] = 0.0
        fuse = preprocess.fuse

        def timed(*args: object) -> object:
            begun = process_time()
            draft = fuse(*args)
            seconds["fusion"] += process_time() - begun
            return draft

        preprocess.fuse = timed
        edge = lower_decoder(exported, options.program, {})
        lap("lower")
        edge.to_executorch()
        lap("to_executorch")
    return {**seconds, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()

"""Prompts and decoding at published shapes, random weights, beside llama.cpp's Vulkan backend: one run on one machine.

    python bench/against_llama_cpp.py prepare FOLDER                  # needs PyTorch and no GPU; kilobytes a model
    python bench/against_llama_cpp.py measure FOLDER --results FILE   # on the GPU; needs neither PyTorch nor a network

`measure` makes the weights, runs the player by itself (--kernels: and prints device time by kernel) and llama.cpp
b11669 (`pip install inferna-vulkan==0.7.0 gguf`) on the same shapes, the better of its two matrix paths for each test,
prints a table and appends a line of JSON for each figure. ppN: a prompt of N tokens in one call; tgN@dD: N tokens one
by one after D; load: seconds from a file to the first token, with an empty pipeline cache and with a filled one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
import llama_cpp
import numpy as np
import shapes

from zeropoint.program.io import read_program, write_program
from zeropoint.runtime.devices import devices
from zeropoint.runtime.player import LoadedProgram

TESTS = ("pp128", "pp512", "tg128", "tg128@d896", "pp8@d64")
CONTEXT, PREFILL = 1024, 512
RUNS = 5
WARM_UP_S = 5.0  # until a GPU runs at its full clock
DRIVER_CACHES_OFF = {"__GL_SHADER_DISK_CACHE": "0", "MESA_SHADER_CACHE_DISABLE": "true"}
LIKELIEST = ".top1"  # the same model, which gives the likeliest token alone: `zeropoint export --top-logits 1`
ON_DEVICE = ", the likeliest token chosen on the device"
PEER_PATHS: tuple[dict[str, str], ...] = ({}, {"GGML_VK_DISABLE_COOPMAT2": "1"})
MODELS = ("qwen3-0.6b", "llama-3.2-1b", "llama-3.1-8b")


def shape_of(config: Any) -> dict[str, Any]:
    """What llama.cpp's files say of a transformers configuration."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "architecture": config.model_type, "hidden": config.hidden_size, "intermediate": config.intermediate_size,
        "layers": config.num_hidden_layers, "heads": config.num_attention_heads, "head_dim": head_dim,
        "kv_heads": config.num_key_value_heads, "vocabulary": config.vocab_size, "eps": config.rms_norm_eps,
        "positions": config.max_position_embeddings, "rope_theta": config.rope_parameters["rope_theta"],
        "tied": config.tie_word_embeddings,
    }  # fmt: skip


@click.group()
def main() -> None:
    """Zeropoint and llama.cpp on the same shapes."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS, show_default=True)
def prepare(folder: Path, models: Sequence[str]) -> None:
    """Writes MODEL.zpp and MODEL.top1.zpp, Programs without constants, and MODEL.json, their shape, into FOLDER."""
    from zeropoint.llm.shapes import llama_1b, qwen3_600m

    configs = dict(zip(MODELS, (qwen3_600m, llama_1b, shapes.llama_8b), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        for name, top_logits in ((model, None), (f"{model}{LIKELIEST}", 1)):
            program = shapes.export_shape(
                configs[model], max_context=CONTEXT, max_prefill=PREFILL, top_logits=top_logits
            )
            (folder / f"{name}.zpp").write_bytes(write_program(program))
            click.echo(f"{name}: {len(program.calls)} calls")
        (folder / f"{model}.json").write_text(json.dumps(shape_of(configs[model]())))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Default: those in FOLDER.")
@click.option("--test", "tests", multiple=True, default=TESTS, show_default=True)
@click.option("--kernels", is_flag=True, help="Device time by kernel of each test.")
@click.option("--peer/--no-peer", default=True, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="A file of JSON lines to append to.")
@click.option("--commit", default="", help="Of this tree, where git does not say.")
def measure(
    folder: Path,
    models: Sequence[str],
    tests: Sequence[str],
    kernels: bool,
    peer: bool,
    results: Path | None,
    commit: str,
) -> None:
    """Measures and compares; weights and llama.cpp's files go to a temporary folder."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as space:
        for model in models or sorted(path.stem for path in folder.glob("*.json")):
            for row in (
                *_ours(folder, model, Path(space), tests, kernels),
                *_peers(folder, model, Path(space), tests, peer),
            ):
                click.echo(f"{row['backend']:10} {model:14} {row['test']:14} {row['median']:12.2f} {row['unit']}")
                rows.append({**_place(commit), "model": model, **row})
    _print_table(rows)
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def _row(backend: str, test: str, unit: str, runs: Sequence[float]) -> dict[str, Any]:
    return {"backend": backend, "test": test, "unit": unit, "median": statistics.median(runs), "runs": list(runs)}


def _ours(folder: Path, model: str, space: Path, tests: Sequence[str], kernels: bool) -> Iterator[dict[str, Any]]:
    made: shapes.Made = {}
    program, constants = shapes.random_constants(read_program((folder / f"{model}.zpp").read_bytes()), made)
    blob = write_program(program)
    size = len(blob) + sum(data.size for data in constants.values())
    yield _row("zeropoint", "file", "MB", [size / 1e6])
    with LoadedProgram(blob, constants) as loaded:
        if choices := loaded.choices().count:
            click.echo(f"{choices} choices of {loaded.choices().path}")
        for test in tests:
            yield _row("zeropoint", test, "tokens/s", _rates(loaded, test))
    program, same = shapes.random_constants(read_program((folder / f"{model}{LIKELIEST}.zpp").read_bytes()), made)
    assert same.keys() == constants.keys()
    with LoadedProgram(program, constants) as loaded:
        for test in tests:
            yield _row("zeropoint", f"{test}{ON_DEVICE}", "tokens/s", _rates(loaded, test))
    if kernels:
        with LoadedProgram(blob, constants, profile=True) as loaded:
            for test in tests:
                _print_kernels(loaded, test)
    yield from _loads(space / model, blob, constants)


def _call(length: int, position: int) -> list[np.ndarray | int]:
    ids = (3 + 7 * np.arange(position, position + length, dtype=np.int64)) % 1000
    return [ids[None], np.arange(position, position + length, dtype=np.int64)]


def _calls(test: str) -> list[list[np.ndarray | int]]:
    name, _, depth = test.partition("@d")
    count, start = int(name[2:]), int(depth or 0)
    if name.startswith("pp"):
        return [_call(count, start)]
    return [_call(1, position) for position in range(start, start + count)]


def _rates(loaded: LoadedProgram, test: str) -> list[float]:
    calls, found = _calls(test), []
    n_tokens = sum(call[1].size for call in calls if isinstance(call[1], np.ndarray))
    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        loaded.execute(calls[0])
    for _ in range(RUNS):
        started = time.perf_counter()
        for call in calls:
            loaded.execute(call)
        found.append(n_tokens / (time.perf_counter() - started))
    return found


def _print_kernels(loaded: LoadedProgram, test: str) -> None:
    call = _calls(test)[-1]
    end = time.perf_counter() + WARM_UP_S / 2
    while time.perf_counter() < end:
        loaded.execute(call)
    runs: list[dict[str, list[int]]] = []
    for _ in range(15):
        loaded.execute(call)
        sums: dict[str, list[int]] = {}
        for pick in loaded.picks():
            sums.setdefault(f"{pick.kernel}/{pick.algorithm} {pick.grid} {pick.specs.get('PROLOGUE', '')}", []).append(
                pick.time_ns or 0
            )
        runs.append(sums)
    total = statistics.median(sum(map(sum, run.values())) for run in runs)
    click.echo(f"  {test}: {total / 1e6:.3f} ms on the device, a barrier after each call")
    for name in sorted(runs[0], key=lambda name: -sum(runs[0][name])):
        found = statistics.median(sum(run[name]) for run in runs)
        click.echo(f"    {name:64} {found / 1e6:9.3f} ms  x{len(runs[0][name])}")


def _loads(path: Path, blob: bytes, constants: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    Path(f"{path}.blob").write_bytes(blob)
    with Path(f"{path}.bin").open("wb") as file:
        places = {}
        for key, data in constants.items():
            places[key] = file.tell(), data.size
            file.write(data.data)
    Path(f"{path}.places").write_text(json.dumps(places))
    with tempfile.TemporaryDirectory() as cache:
        for state in ("empty", "filled"):
            env = {**os.environ, **DRIVER_CACHES_OFF, "ZEROPOINT_CACHE_DIR": cache}
            code = f"import against_llama_cpp as bench; bench.load({str(path)!r})"
            run = subprocess.run(
                [sys.executable, "-c", code],
                env=env,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                cwd=Path(__file__).parent,
            )
            yield _row("zeropoint", f"load, {state} cache", "s", [float(run.stdout.splitlines()[-1])])


def load(path: str) -> None:
    """Prints the seconds from mapped files to the first token."""
    list(devices())  # what any program of this process would wait for
    started = time.perf_counter()
    data = np.memmap(f"{path}.bin", np.uint8, "r")
    places = json.loads(Path(f"{path}.places").read_text())
    constants: dict[str, bytes | np.ndarray] = {key: data[at : at + size] for key, (at, size) in places.items()}
    with LoadedProgram(Path(f"{path}.blob").read_bytes(), constants) as loaded:
        loaded.execute(_call(1, 0))
        print(time.perf_counter() - started)


def _peers(folder: Path, model: str, space: Path, tests: Sequence[str], wanted: bool) -> Iterator[dict[str, Any]]:
    if not wanted:
        return
    path = space / f"{model}.gguf"
    llama_cpp.write_gguf(path, json.loads((folder / f"{model}.json").read_text()))
    yield _row("llama.cpp", "file", "MB", [path.stat().st_size / 1e6])
    best: dict[str, dict[str, Any]] = {}
    for variables in PEER_PATHS:
        command = [sys.executable, llama_cpp.__file__, str(path), *tests]
        run = subprocess.run(
            command,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        for line in run.stdout.splitlines():
            if line.startswith("{"):
                item = json.loads(line)
                row = _row("llama.cpp", item["test"], item["unit"], item["runs"])
                sign = -1 if row["unit"] == "s" else 1
                if row["test"] not in best or sign * row["median"] > sign * best[row["test"]]["median"]:
                    best[row["test"]] = row
    path.unlink()
    yield from best.values()


def _place(commit: str) -> dict[str, Any]:
    found = next((item for item in devices() if not item.unusable), None)
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return {
        "date": date.today().isoformat(), "commit": commit or said.stdout.strip(),
        "device": found.name if found else "", "driver": found.driver if found else "",
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    found = {(row["model"], row["test"], row["backend"]): row for row in rows}
    click.echo("\n| model | test | Zeropoint | llama.cpp | ratio |\n|---|---|---|---|---|")
    for model, test, backend in found:
        if backend != "zeropoint":
            continue
        ours = found[model, test, backend]
        peer = found.get((model, test.partition(",")[0], "llama.cpp"))
        theirs = f"{peer['median']:.2f} | {ours['median'] / peer['median']:.2f}" if peer else " | "
        click.echo(f"| {model} | {test} ({ours['unit']}) | {ours['median']:.2f} | {theirs} |")


if __name__ == "__main__":
    main()

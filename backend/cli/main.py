"""The command `zeropoint`. What goes wrong is one line on stderr and exit code 2; after Ctrl-C it is 130.

Nothing heavy is imported before a command needs it: `zeropoint devices` and `zeropoint kernels` run without torch.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import click

from ..errors import OptionError, ZeropointError
from ..version import __version__
from .common import FILE, echo_peak, quiet
from .text import chat, export, generate


class _Failure(click.ClickException):
    exit_code = 2


class _Interrupted(click.ClickException):
    exit_code = 130  # what a shell makes of a command that Ctrl-C ended


class _Commands(click.Group):
    """Our own errors, the file system's and Ctrl-C become one line."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (ZeropointError, OSError) as error:
            raise _Failure(str(error)) from error
        except KeyboardInterrupt as error:
            raise _Interrupted("interrupted; no file is half-written") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """8da4w models on Vulkan through ExecuTorch. ZEROPOINT_DEVICE chooses the device: index, part of a name, or cpu."""


@main.command()
def devices() -> None:
    """What Vulkan offers on this machine."""
    from ..runtime.devices import devices as found

    for device in found():
        click.echo(f"{device.index}: {device.name} ({device.type}, {device.driver}, Vulkan {device.api})")
        if device.unusable:
            click.echo(f"   cannot be used: {device.unusable}")
        facts = (name if value == 1 else f"{name}={value}" for name, value in device.facts.items() if value)
        click.echo(f"   {' '.join(facts)}")


@main.command()
def kernels() -> None:
    """Every kernel, algorithm and variant of the kernel library inside the player."""
    from ..kernels.build import list_kernels
    from ..runtime.player import kernel_library

    click.echo(list_kernels(kernel_library()))


main.add_command(export)
main.add_command(generate)
main.add_command(chat)


@main.command()
@click.argument("program", type=FILE)
@click.option("--prefill", type=click.IntRange(min=1), multiple=True, default=(128,), show_default=True,
              help="Tokens of a prompt; repeat for more.")  # fmt: skip
@click.option("--depth", type=click.IntRange(min=0), multiple=True, default=(0,), show_default=True,
              help="Tokens in the cache before decoding; repeat for more.")  # fmt: skip
@click.option("-n", "--tokens", type=click.IntRange(min=1), default=32, show_default=True, help="Tokens to decode.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--load", is_flag=True, help="Loading too, with an empty and with a filled pipeline cache.")
@click.option("--kernels", is_flag=True, help="Device time by kernel too, beside what this device can do at most.")
@click.option("--json", "results", type=FILE, help="Append a line for each result to this file.")
def bench(
    program: Path,
    prefill: tuple[int, ...],
    depth: tuple[int, ...],
    tokens: int,
    runs: int,
    load: bool,
    kernels: bool,
    results: Path | None,
) -> None:
    """Tokens a second of a text model: prompts, and decoding at depths of its cache."""
    quiet()
    from ..llm.benchmark import BenchmarkOptions, measure_loads, measure_text
    from ..llm.kernel_times import measure_ceilings, measure_kernels

    options = BenchmarkOptions(prefill=prefill, depths=depth, tokens=tokens, runs=runs)
    place, measurements = measure_text(program, options)
    command = " ".join(["zeropoint", *sys.argv[1:]])
    click.echo(place)
    for found in itertools.chain(measurements, measure_loads(program) if load else ()):
        click.echo(found)
        if results is not None:
            with results.open("a") as file:
                file.write(place.to_json(found, command) + "\n")
    if not kernels:
        return
    ceilings = measure_ceilings()
    click.echo(f"most that this device did: {ceilings}")
    calls = [(length, 0) for length in prefill] + [(1, position) for position in depth]
    for (length, position), times in measure_kernels(program, calls).items():
        total = sum(item.time_s for item in times)
        click.echo(f"{length} tokens at {position}: {total * 1e3:.3f} ms of device time")
        for item in times:
            click.echo(item.text(ceilings))


@main.command()
@click.argument("program", type=FILE)
@click.option("--runs", type=click.IntRange(min=2), help="Of each algorithm and length. Default: 7.")
@click.option("--reset", is_flag=True, help="Remove the device's choices, of all models, in place of measuring.")
def tune(program: Path, runs: int | None, reset: bool) -> None:
    """Measures the algorithms that the device can run for a text model's shapes, and keeps those that are faster.

    They stand in a file beside the pipeline cache, which every program that is loaded on the device heeds.
    """
    quiet()
    from ..llm.tuning import reset as remove
    from ..llm.tuning import tune as measure

    if reset and runs is not None:
        raise OptionError("tune: --runs with --reset, which measures nothing; leave one of them out")
    if reset:
        path, was_there = remove(program)
        click.echo(f"{path}: {'removed' if was_there else 'not there'}")
        return
    tuning = measure(program, runs=runs or 7, note=lambda step: click.echo(f"tune: {step}", err=True))
    found = tuning.found
    click.echo(f"{program.stem} on {tuning.device}: device time of all calls of a shape, by the manifest and by choice")
    for line in (*found.choices, *found.totals):
        click.echo(line)
    n_open = sum(len(algorithms) > 1 for algorithms in found.shapes.values())
    click.echo(f"{len(found.choices)} choices for {n_open} shapes that have several algorithms, of {len(found.shapes)}")
    if found.choices:
        click.echo(f"kept in {tuning.path}; `zeropoint tune --reset {program}` removes it")


@main.command()
@click.argument("program", type=FILE)
@click.option("-i", "--input", "inputs", type=FILE, multiple=True, help="A .npy file; repeat for each input.")
@click.option("-o", "--output", type=FILE, help="Folder for output_0.npy and so on.")
@click.option("--method", default="forward", show_default=True)
def run(program: Path, inputs: tuple[Path, ...], output: Path | None, method: str) -> None:
    """Runs a .pte once in executorch.runtime. `zeropoint-run` does it without PyTorch."""
    quiet()
    from ..runtime.running import run_program

    for line in run_program(program, inputs, output, method=method):
        click.echo(line)
    echo_peak()


@main.command()
@click.argument("program", type=FILE)
@click.option(
    "-i", "--input", "--inputs", "inputs", type=FILE, multiple=True, help="A .npy file; repeat for each input."
)
@click.option("-p", "--prompt", help="What a text model reads, in place of inputs.")
@click.option("--tokenizer", type=FILE, help="Default: PROGRAM's name with .tokenizer.json")
@click.option("--method", default="forward", show_default=True)
@click.pass_context
def verify(
    context: click.Context,
    program: Path,
    inputs: tuple[Path, ...],
    prompt: str | None,
    tokenizer: Path | None,
    method: str,
) -> None:
    """Compares every kernel call of a run with its PyTorch reference; exit code 1 when one is out of tolerance."""
    quiet()
    from ..runtime.running import read_array
    from ..verification.verify import verify as compare

    arrays = [read_array(path) for path in inputs] or None
    found = compare(program, arrays, method=method, prompt=prompt, tokenizer=tokenizer)
    click.echo(str(found))
    if not found.is_right:
        context.exit(1)


@main.command()
@click.argument("program", type=FILE)
def inspect(program: Path) -> None:
    """The Programs of a .pte's delegates: tensors with dtype and storage, kernel calls, constants; all are read."""
    quiet()
    from ..export.inspection import inspect as read

    found = read(program)
    found.check_constants()
    click.echo(str(found), nl=False)
    click.echo(f"{len(found.delegates)} delegates, {len(found.constants)} constants, "
               f"{sum(map(len, found.constants.values()))} bytes")  # fmt: skip


@main.command()
@click.argument("program", type=FILE)
def explain(program: Path) -> None:
    """What the partitioner does with each node of a program that torch.export.save wrote (.pt2).

    Nothing in the file is run: tensors are read as weights only, and a file that holds compiled code, pickled objects
    or sizes that are Python is refused.
    """
    quiet()
    from ..export.explanation import explain as table
    from ..export.pt2 import load_exported

    click.echo(str(table(load_exported(program))), nl=False)


if __name__ == "__main__":
    sys.exit(main())

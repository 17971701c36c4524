"""The command `zeropoint`. What goes wrong is one line on stderr and exit code 2.

Nothing heavy is imported before a command needs it: `zeropoint devices` and `zeropoint kernels` run without torch.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import warnings
from pathlib import Path

import click

from . import __version__
from .errors import GraphBreakWarning, OptionError, VersionWarning, ZeropointError

_FILE = click.Path(path_type=Path)


class _Failure(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Our own errors and the file system's become one line."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (ZeropointError, OSError) as error:
            raise _Failure(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """8da4w models on Vulkan through ExecuTorch. ZEROPOINT_DEVICE chooses the device: index, part of a name, or cpu."""


@main.command()
def devices() -> None:
    """What Vulkan offers on this machine."""
    from .runtime.devices import devices as found

    for device in found():
        click.echo(f"{device.index}: {device.name} ({device.type}, {device.driver}, Vulkan {device.api})")
        if device.unusable:
            click.echo(f"   cannot be used: {device.unusable}")
        facts = (name if value == 1 else f"{name}={value}" for name, value in device.facts.items() if value)
        click.echo(f"   {' '.join(facts)}")


@main.command()
def kernels() -> None:
    """Every kernel, algorithm and variant of the kernel library inside the player."""
    from .kernels.build import list_kernels
    from .runtime.player import kernel_library

    click.echo(list_kernels(kernel_library()))


def _list_models(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    _quiet()
    from .llm.encoders import ENCODERS
    from .llm.models import CHECKED, MODELS

    for model in (*MODELS, *ENCODERS):
        click.echo(f"{model.name}: {model.title}; {model.weights}; checked with {model.checked}")
    click.echo(CHECKED)
    context.exit()


@main.command()
@click.argument("model")
@click.option("--list", is_flag=True, expose_value=False, is_eager=True, callback=_list_models, help="List the models.")
@click.option("-o", "--output", type=_FILE, help="The .pte to write. Default: MODEL.pte")
@click.option("--recipe", help="8da4w (int8 zero points) or 8da4w-float-zp. Default: the model's, mostly 8da4w.")
@click.option("--group-size", default=32, show_default=True, help="Inputs that share a weight scale.")
@click.option("--algorithm", default="hqq_scale_only", show_default=True, help="Of the weights; affine is quicker.")
@click.option("--lm-head", help="The last linear's own recipe. Default: 8da8w beside 8da4w.")
@click.option("--layers", type=click.IntRange(min=1), help="Keep the first ones only. Default: all.")
@click.option("--max-context", default=512, show_default=True, help="Tokens of prompt and answer.")
@click.option("--max-prefill", default=128, show_default=True, help="Tokens of the prompt, or text, in one call.")
@click.option("--compute-dtype", default="model", show_default=True, help="model, f32 or f16.")
@click.option("--qparams-storage", default="buffer", show_default=True, help="buffer or image.")
@click.option("--float-zero-point", default="model", show_default=True, help="model or compute.")
@click.option("--kv-cache", default="model", show_default=True, help="model or i8.")
@click.option("--fusions", default="all", show_default=True, help="all, none, or names: see docs/design.md.")
@click.pass_context
def export(
    context: click.Context,
    model: str,
    output: Path | None,
    recipe: str | None,
    group_size: int,
    algorithm: str,
    lm_head: str | None,
    layers: int | None,
    max_context: int,
    max_prefill: int,
    compute_dtype: str,
    qparams_storage: str,
    float_zero_point: str,
    kv_cache: str,
    fusions: str,
) -> None:
    """Exports MODEL as 8da4w to a .pte, with its tokenizer beside it. --list shows the models."""
    _quiet()
    from tqdm import tqdm

    from .llm.encoder_export import EncoderExportOptions, export_encoder_model
    from .llm.encoders import find_encoder
    from .llm.export import DEFAULT_RECIPE, STEPS, TextExportOptions, export_text_model
    from .llm.files import check_output
    from .llm.models import check_installed, find_model
    from .options import CompileOptions

    compiled = CompileOptions(
        compute_dtype=compute_dtype,
        qparams_storage=qparams_storage,
        float_zero_point=float_zero_point,
        kv_cache=kv_cache,
        fusions=fusions,
    )
    path = output or Path(f"{model}.pte")
    encoder = find_encoder(model)
    if encoder is not None:
        unused = ["lm_head", "max_context", "kv_cache", *([] if encoder.reads_text else ["max_prefill"])]
        _refuse_given(context, unused, f"{model} is an encoder")
        encoding = EncoderExportOptions(
            recipe=recipe or DEFAULT_RECIPE,
            group_size=group_size,
            algorithm=algorithm,
            max_tokens=max_prefill,
            program=compiled,
        )
        encoder.check_installed()  # what cannot work is said before the bar
    else:
        options = TextExportOptions(
            recipe=recipe,
            group_size=group_size,
            algorithm=algorithm,
            lm_head=lm_head,
            max_context=max_context,
            max_prefill=max_prefill,
            program=compiled,
        )
        check_installed(find_model(model))
    check_output(path)
    layout = "{desc:28} {bar:20} {n}/{total} [{elapsed}]"
    with tqdm(total=len(STEPS), desc=model, bar_format=layout, disable=False) as bar:

        def progress(step: str) -> None:
            bar.update(STEPS.index(step) - bar.n)
            bar.set_description(f"{model}: {step}")

        if encoder is not None:
            done = export_encoder_model(encoder, path, encoding, n_layers=layers, progress=progress)
        else:
            done = export_text_model(model, path, options, n_layers=layers, progress=progress)
        bar.update(len(STEPS) - bar.n)
    words = f"tokenizer {done.tokenizer}" if done.tokenizer else "random weights, no tokenizer"
    click.echo(f"{done.program}: {done.size_bytes / 1e6:.0f} MB, {done.n_linears} linears; {words}")
    click.echo(str(done.summary), err=True)
    _echo_peak()


def _echo_peak() -> None:
    from .running import peak_bytes

    click.echo(f"peak memory: {peak_bytes() / 1e9:.2f} GB", err=True)


def _refuse_given(context: click.Context, names: list[str], reason: str) -> None:
    """Raises OptionError on an option that was given and would do nothing."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise OptionError(f"export: --{name.replace('_', '-')}: {reason}, which has none; leave it out")


@main.command()
@click.argument("program", type=_FILE)
@click.option("-p", "--prompt", required=True, help="What to say to the model.")
@click.option("-n", "--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--tokenizer", type=_FILE, help="Default: PROGRAM's name with .tokenizer.json")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
def generate(program: Path, prompt: str, max_new_tokens: int, tokenizer: Path | None, raw: bool) -> None:
    """Streams the model's answer to stdout, and what it took to stderr."""
    _quiet()
    from .llm.chat import ask

    def write(piece: str) -> None:
        click.echo(piece, nl=False)

    answer = ask(program, prompt, write=write, tokenizer=tokenizer, max_new_tokens=max_new_tokens, raw=raw)
    click.echo()
    click.echo(answer, err=True)


@main.command()
@click.argument("program", type=_FILE)
@click.option("--prefill", type=click.IntRange(min=1), multiple=True, default=(128,), show_default=True,
              help="Tokens of a prompt; repeat for more.")  # fmt: skip
@click.option("--depth", type=click.IntRange(min=0), multiple=True, default=(0,), show_default=True,
              help="Tokens in the cache before decoding; repeat for more.")  # fmt: skip
@click.option("-n", "--tokens", type=click.IntRange(min=1), default=32, show_default=True, help="Tokens to decode.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--load", is_flag=True, help="Loading too, with an empty and with a filled pipeline cache.")
@click.option("--kernels", is_flag=True, help="Device time by kernel too, beside what this device can do at most.")
@click.option("--json", "results", type=_FILE, help="Append a line for each result to this file.")
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
    _quiet()
    from .llm.benchmark import BenchmarkOptions, measure_loads, measure_text
    from .llm.kernel_times import measure_ceilings, measure_kernels

    options = BenchmarkOptions(prefill=prefill, depths=depth, tokens=tokens, runs=runs)
    place, measurements = measure_text(program, options)
    command = " ".join(["zeropoint", *sys.argv[1:]])
    click.echo(f"{place.model} on {place.device} ({place.driver})")
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
@click.argument("program", type=_FILE)
@click.option("-i", "--input", "inputs", type=_FILE, multiple=True, help="A .npy file; repeat for each input.")
@click.option("-o", "--output", type=_FILE, help="Folder for output_0.npy and so on.")
@click.option("--method", default="forward", show_default=True)
def run(program: Path, inputs: tuple[Path, ...], output: Path | None, method: str) -> None:
    """Runs a .pte once in executorch.runtime. `zeropoint-run` does it without PyTorch."""
    _quiet()
    from .running import run_program

    for line in run_program(program, inputs, output, method=method):
        click.echo(line)
    _echo_peak()


@main.command()
@click.argument("program", type=_FILE)
@click.option(
    "-i", "--input", "--inputs", "inputs", type=_FILE, multiple=True, help="A .npy file; repeat for each input."
)
@click.option("-p", "--prompt", help="What a text model reads, in place of inputs.")
@click.option("--tokenizer", type=_FILE, help="Default: PROGRAM's name with .tokenizer.json")
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
    _quiet()
    from .running import read_array
    from .verification import verify as compare

    arrays = [read_array(path) for path in inputs] or None
    found = compare(program, arrays, method=method, prompt=prompt, tokenizer=tokenizer)
    click.echo(str(found))
    if not found.is_right:
        context.exit(1)


@main.command()
@click.argument("program", type=_FILE)
def inspect(program: Path) -> None:
    """The Programs of a .pte's delegates: tensors with dtype and storage, kernel calls, constants; all are read."""
    _quiet()
    from .inspection import inspect as read

    found = read(program)
    found.check_constants()
    click.echo(str(found), nl=False)
    click.echo(f"{len(found.delegates)} delegates, {len(found.constants)} constants, "
               f"{sum(map(len, found.constants.values()))} bytes")  # fmt: skip


@main.command()
@click.argument("program", type=_FILE)
def explain(program: Path) -> None:
    """What the partitioner does with each node of a program that torch.export.save wrote (.pt2).

    Nothing in the file is run: tensors are read as weights only, and a file that holds compiled code, pickled objects
    or sizes that are Python is refused.
    """
    _quiet()
    from .explanation import explain as table
    from .pt2 import load_exported

    click.echo(str(table(load_exported(program))), nl=False)


def _quiet() -> None:
    """This process is the command's own: other packages' notes on their internals are no help to its user."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", GraphBreakWarning)
    warnings.simplefilter("always", VersionWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")  # our own bar says disable=False
    for name in ("torchao", "torch.utils._pytree", "torch.export", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())

"""The commands about models: `zeropoint export`, `zeropoint generate` and `zeropoint chat`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from .common import FILE, echo_peak, quiet

if TYPE_CHECKING:
    from ..llm.export import Progress


def _list_models(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    quiet()
    from ..llm.encoders import ENCODERS
    from ..llm.models import CHECKED, MODELS

    for model in (*MODELS, *ENCODERS):
        click.echo(f"{model.name}: {model.title}; {model.weights}; checked with {model.checked}")
    click.echo(CHECKED)
    context.exit()


@click.command()
@click.argument("model")
@click.option("--list", is_flag=True, expose_value=False, is_eager=True, callback=_list_models, help="List the models.")
@click.option("-o", "--output", type=FILE, help="The .pte to write. Default: MODEL's name with .pte")
@click.option("--task", type=click.Choice(["generate", "encode"]), default="generate", show_default=True,
              help="What a folder's model does: continue a text, or make vectors or classes.")  # fmt: skip
@click.option("--pooling", default="auto", show_default=True, help="Of an encoder: auto, mean, cls or none.")
@click.option("--dry-run", is_flag=True, help="Only say what would be read, quantized and written.")
@click.option("--recipe", help="8da4w (int8 zero points) or 8da4w-float-zp. Default: the model's, mostly 8da4w.")
@click.option("--group-size", default=32, show_default=True, help="Inputs that share a weight scale.")
@click.option("--algorithm", default="hqq_scale_only", show_default=True, help="Of the weights; affine is quicker.")
@click.option("--lm-head", help="The last linear's own recipe. Default: 8da8w beside 8da4w.")
@click.option("--embedding", help="The table of the words: 8w, 4w, or model for float. Default: 8w beside 8da4w.")
@click.option("--weight-scales", default="model", show_default=True, help="model, or f16: smaller; says the error.")
@click.option("--adapter", help="A LoRA adapter in peft's format, folder or id, to merge into the weights first.")
@click.option("--layers", type=click.IntRange(min=1), help="Keep the first ones only. Default: all.")
@click.option("--max-context", default=512, show_default=True, help="Tokens of prompt and answer.")
@click.option("--max-prefill", type=int, help="Tokens of the prompt, or text, in one call. Default: 128, or all.")
@click.option("--max-source", type=int, help="Tokens that an encoder with a decoder reads. Default: --max-context.")
@click.option("--top-logits", type=int, help="Give so many of the largest logits, chosen on the device. Default: all.")
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
    task: str,
    pooling: str,
    dry_run: bool,
    recipe: str | None,
    group_size: int,
    algorithm: str,
    lm_head: str | None,
    embedding: str | None,
    weight_scales: str,
    adapter: str | None,
    layers: int | None,
    max_context: int,
    max_prefill: int | None,
    max_source: int | None,
    top_logits: int | None,
    compute_dtype: str,
    qparams_storage: str,
    float_zero_point: str,
    kv_cache: str,
    fusions: str,
) -> None:
    """Exports MODEL as 8da4w to a .pte, with its tokenizer beside it.

    MODEL is a name of --list, a folder of transformers' files (config.json, safetensors, tokenizer), a .gguf file, or
    the id owner/name of a folder that transformers finds on a hub or in its cache. Weights that are quantized in a
    .gguf file or a folder (GPTQ, AWQ, compressed-tensors, torchao) stay what they are unless --recipe is given.
    """
    quiet()
    from ..llm.encoder_export import EncoderExportOptions, export_encoder_model
    from ..llm.encoders import find_encoder_source
    from ..llm.export import DEFAULT_PREFILL, DEFAULT_RECIPE, TextExportOptions, export_text_model
    from ..llm.files import check_output
    from ..llm.models import check_installed, find_source
    from ..llm.plan import plan_text_model
    from ..lowering.options import CompileOptions

    compiled = CompileOptions(
        compute_dtype=compute_dtype,
        qparams_storage=qparams_storage,
        float_zero_point=float_zero_point,
        kv_cache=kv_cache,
        fusions=fusions,
    )
    encoder = find_encoder_source(model, task, pooling)
    if encoder is not None:
        name = encoder.name
        unused = ["lm_head", "embedding", "weight_scales", "adapter", "max_context", "max_source", "kv_cache"]
        unused += ["dry_run", "top_logits"]
        _refuse_given(context, unused + ["max_prefill"] * (not encoder.reads_text), f"{model} is an encoder")
        encoding = EncoderExportOptions(
            recipe=recipe or DEFAULT_RECIPE,
            group_size=group_size,
            algorithm=algorithm,
            max_tokens=DEFAULT_PREFILL if max_prefill is None else max_prefill,
            program=compiled,
        )
        encoder.check_installed()  # what cannot work is said before the bar
    else:
        _refuse_given(context, ["pooling"], f"{model} is a decoder")
        options = TextExportOptions(
            recipe=recipe,
            group_size=group_size,
            algorithm=algorithm,
            lm_head=lm_head,
            embedding=embedding,
            weight_scales=weight_scales,
            adapter=adapter,
            max_context=max_context,
            max_prefill=min(DEFAULT_PREFILL, max_context) if max_prefill is None else max_prefill,
            max_source=max_source,
            top_logits=top_logits,
            program=compiled,
        )
        source = find_source(model)
        name = source.name
        check_installed(source)
    if dry_run:
        click.echo(str(plan_text_model(source, options, n_layers=layers)))
        return
    path = output or Path(f"{name}.pte")
    check_output(path)
    with _steps(name) as progress:
        if encoder is not None:
            done = export_encoder_model(encoder, path, encoding, n_layers=layers, progress=progress)
        else:
            done = export_text_model(source, path, options, n_layers=layers, progress=progress)
    words = f"tokenizer {done.tokenizer}" if done.tokenizer else "no tokenizer"
    click.echo(f"{done.program}: {done.size_bytes / 1e6:.0f} MB, {done.n_linears} linears; {words}")
    click.echo(str(done.summary), err=True)
    if done.kept is not None:
        click.echo(str(done.kept), err=True)
    if done.scales is not None:
        click.echo(str(done.scales), err=True)
    echo_peak()


@contextmanager
def _steps(name: str) -> Iterator[Progress]:
    """A bar; what it gives is told each of the export's steps as it begins."""
    from tqdm import tqdm

    from ..llm.export import STEPS

    layout = "{desc:28} {bar:20} {n}/{total} [{elapsed}]"
    with tqdm(total=len(STEPS), desc=name, bar_format=layout, disable=False) as bar:

        def progress(step: str, done: int = 0, total: int = 0) -> None:
            bar.update(STEPS.index(step) - bar.n)
            bar.set_description(f"{name}: {step}" + (f" {done}/{total}" if total else ""))

        yield progress
        bar.update(len(STEPS) - bar.n)


def _refuse_given(context: click.Context, names: list[str], reason: str) -> None:
    """Raises OptionError on an option that was given and would do nothing."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise OptionError(f"export: --{name.replace('_', '-')}: {reason}, which has none; leave it out")


def _sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """What generate and chat share; the command gets a Sampling's arguments, json_schema and grammar."""
    options = [
        click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token."),
        click.option("--top-k", default=0, show_default=True, help="Of the likeliest tokens alone; 0: of all."),
        click.option("--top-p", default=1.0, show_default=True, help="Of the fewest that have this probability."),
        click.option("--min-p", default=0.0, show_default=True, help="Of those at least this share as likely."),
        click.option("--repetition-penalty", default=1.0, show_default=True, help="Above 1: less of what occurred."),
        click.option("--seed", type=int, help="For the same answer again. Default: another one every time."),
        click.option("--stop", multiple=True, help="A text that ends an answer; repeat for more."),
        click.option("--json-schema", type=FILE, help="Answer with JSON of the schema in this file."),
        click.option("--grammar", type=FILE, help="Answer by the grammar (Lark, as llguidance reads it) in this file."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _read_text(path: Path | None) -> str:
    return "" if path is None else path.read_text()


@click.command()
@click.argument("program", type=FILE)
@click.option("-p", "--prompt", help="What to say to the model.")
@click.option("--features", type=FILE, help="A .npy of speech for its encoder: f32 [1, mels, frames].")
@click.option("--start", default="", help="What the decoder behind an encoder begins with. Default: the model's own.")
@click.option("-n", "--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--tokenizer", type=FILE, help="Default: PROGRAM's name with .tokenizer.json")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@_sampling_options
def generate(
    program: Path,
    prompt: str | None,
    features: Path | None,
    start: str,
    max_new_tokens: int,
    tokenizer: Path | None,
    raw: bool,
    json_schema: Path | None,
    grammar: Path | None,
    **sampling: Any,
) -> None:
    """Streams the model's answer to stdout, and what it took to stderr."""
    quiet()
    import torch

    from ..llm.chat import ask
    from ..llm.sampling import Sampling
    from ..runtime.running import read_array

    if (prompt is None) == (features is None):
        raise OptionError("generate: give either a --prompt or, to a model of speech, --features")

    def write(piece: str) -> None:
        click.echo(piece, nl=False)

    answer = ask(
        program,
        torch.from_numpy(read_array(features)) if features is not None else prompt or "",
        write=write,
        tokenizer=tokenizer,
        max_new_tokens=max_new_tokens,
        raw=raw,
        start=start,
        sampling=Sampling(**sampling),
        json_schema=_read_text(json_schema),
        grammar=_read_text(grammar),
    )
    click.echo()
    click.echo(answer, err=True)


@click.command()
@click.argument("program", type=FILE)
@click.option("-s", "--system", default="", help="What the system says at first.")
@click.option("-n", "--max-new-tokens", default=512, show_default=True, type=click.IntRange(min=1))
@click.option("--tokenizer", type=FILE, help="Default: PROGRAM's name with .tokenizer.json")
@_sampling_options
def chat(
    program: Path,
    system: str,
    max_new_tokens: int,
    tokenizer: Path | None,
    json_schema: Path | None,
    grammar: Path | None,
    **sampling: Any,
) -> None:
    """A conversation with the model, turn by turn. /help lists what else may be typed."""
    quiet()
    from ..llm.sampling import Sampling
    from ..llm.terminal import HELP, Terminal
    from ..llm.text_model import TextModel

    chosen = Sampling(**sampling)
    session = TextModel(program, tokenizer=tokenizer).session(system)
    click.echo(HELP, err=True)
    Terminal(
        session,
        read=lambda: input("> "),
        write=lambda text: click.echo(text, nl=False),
        note=lambda text: click.echo(text, err=True),
        sampling=chosen,
        max_new_tokens=max_new_tokens,
        json_schema=_read_text(json_schema),
        grammar=_read_text(grammar),
    ).run()

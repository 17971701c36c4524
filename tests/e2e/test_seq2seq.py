"""Encoders with a decoder, exported by the command: `encode` and `forward` are one delegate each, equal to eager."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from executorch.exir._serialize._program import deserialize_pte_binary
from transformers import PreTrainedModel

import zeropoint
from tests.e2e import architectures, codes
from tests.e2e.architectures import BOTH_HALVES, VOCABULARY
from tests.e2e.test_checkpoints import export, quantized, saved, words
from zeropoint.cli.main import main
from zeropoint.errors import OptionError
from zeropoint.llm.generation import TextProgram
from zeropoint.llm.text_model import TextModel

pytestmark = pytest.mark.usefixtures("validated")
CONTEXT, SOURCE, PREFILL = 16, 12, 8
STARTS = {"T5": [0], "BART": [1, 7], "Whisper": [1], "UMT5": [0], "Pegasus": [1]}


def t5() -> PreTrainedModel:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_decoder_layers=2, num_heads=4,
        pad_token_id=0, decoder_start_token_id=0, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def bart() -> PreTrainedModel:
    model = transformers.BartForConditionalGeneration(
        transformers.BartConfig(**BOTH_HALVES, max_position_embeddings=24)
    )
    model.generation_config.forced_bos_token_id = 7
    model.generation_config.decoder_start_token_id = 1  # and config.json has none
    model.config.decoder_start_token_id = None
    return model


def whisper() -> PreTrainedModel:
    config = transformers.WhisperConfig(
        **BOTH_HALVES, num_mel_bins=8, max_source_positions=SOURCE, max_target_positions=CONTEXT
    )
    return transformers.WhisperForConditionalGeneration(config)


def umt5() -> PreTrainedModel:
    """Scales what goes into the last linear because it is tied to the table."""
    config = transformers.UMT5Config(
        vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4, pad_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.UMT5ForConditionalGeneration(config)


def pegasus() -> PreTrainedModel:
    return transformers.PegasusForConditionalGeneration(
        transformers.PegasusConfig(**BOTH_HALVES, max_position_embeddings=24)
    )


KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "T5": t5,
    "BART": bart,
    "Whisper": whisper,
    "UMT5": umt5,
    "Pegasus": pegasus,
}


class Exported:
    """A model in eager PyTorch, quantized, and the .pte that the command made of its folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.path = folder / "model.pte"
        self.reads_speech = name == "Whisper"
        model = saved(KINDS[name](), folder / "model", torch.bfloat16)
        words(folder / "model")
        lengths = ["--max-context", CONTEXT, "--max-prefill", PREFILL]
        export(folder / "model", self.path, *lengths, *([] if self.reads_speech else ["--max-source", SOURCE]))
        self.model = quantized(model)
        self.start = STARTS[name]

    def source(self, length: int) -> torch.Tensor:
        return torch.randn(1, 8, 2 * SOURCE) if self.reads_speech else architectures.ids(length)

    def logits(self, source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        name = "input_features" if self.reads_speech else "input_ids"
        with torch.no_grad():
            found: torch.Tensor = self.model(**{name: source}, decoder_input_ids=tokens).logits[0, -1]
        return found

    def answer(self, source: torch.Tensor, n_tokens: int) -> list[int]:
        """The likeliest tokens, each of them by the whole model without a cache."""
        tokens = torch.tensor([self.start])
        for _ in range(n_tokens):
            tokens = torch.cat((tokens, self.logits(source, tokens).argmax().view(1, 1)), 1)
        return tokens[0, len(self.start) :].tolist()


@pytest.fixture(
    scope="module",
    params=["BART", *(pytest.param(name, marks=pytest.mark.slow) for name in ("T5", "Whisper", "UMT5", "Pegasus"))],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(3)
    return Exported(request.param, tmp_path_factory.mktemp(request.param))


def check_methods(path: Path) -> None:
    """One delegate each and nothing beside it; the tables, and the last linear of their integers, are stored once."""
    plans = deserialize_pte_binary(path.read_bytes()).program.execution_plan
    methods = {plan.name: plan for plan in plans if plan.delegates}
    assert sorted(methods) == ["encode", "forward"]
    assert [(len(plan.delegates), plan.operators) for plan in methods.values()] == [(1, [])] * 2
    tables = [data for data in zeropoint.inspect(path).constants.values() if len(data) == VOCABULARY * 64]
    assert len(tables) == 1


def check(found: torch.Tensor, wanted: torch.Tensor) -> None:
    error = float((found - wanted).norm() / wanted.norm())
    print(f"{error:.1e}")
    assert error <= codes.EXACT


def test_logits(exported: Exported) -> None:
    """Tokens and single ones after a long source, then after a shorter one, of which nothing of the first is left."""
    check_methods(exported.path)
    program = TextProgram(exported.path)
    for length in (SOURCE, 5, 1):
        source, tokens = exported.source(length), architectures.ids(6)
        hidden = program.encode(source)
        with torch.no_grad():
            check(hidden, exported.model.get_encoder()(source).last_hidden_state)
        for first, last in ((0, 4), (4, 5), (5, 6)):
            found = program.logits(tokens[0, first:last].tolist(), first)
            check(found, exported.logits(source, tokens[:, :last]))


def test_copies_have_caches_of_their_own(exported: Exported) -> None:
    one = TextProgram(exported.path)
    other, sources, tokens = one.again(), [exported.source(4), exported.source(9)], architectures.ids(2)
    for program, source in zip((one, other), sources, strict=True):
        program.encode(source)
    for program, source in zip((one, other), sources, strict=True):
        check(program.logits(tokens[0].tolist(), 0), exported.logits(source, tokens))


def test_answers(exported: Exported) -> None:
    """The tokens that the configuration forces, then the likeliest ones; all linears are counted."""
    model = TextModel(exported.path)
    prompt = exported.source(1) if exported.reads_speech else "w1 w2 w9"
    source = prompt if isinstance(prompt, torch.Tensor) else torch.tensor([model._words.chat(prompt)])
    wanted = exported.answer(source, 5)
    text = "".join(model.generate(prompt, max_new_tokens=5))
    assert text.split() == [f"w{token - 5}" for token in wanted if token > 4]
    statistics = model.statistics
    n_read = SOURCE if exported.reads_speech else source.shape[1]
    assert statistics.prompt == statistics.computed == n_read + len(exported.start)
    assert statistics.generated == 5
    assert "".join(model.generate(prompt, max_new_tokens=5)) == text
    for start in ([9, 8], "w4 w3"):
        chosen = "".join(model.generate(prompt, start=start, max_new_tokens=1))
        wanted = [int(exported.logits(source, torch.tensor([[9, 8]])).argmax())]
        assert chosen.split() == [f"w{token - 5}" for token in wanted if token > 4]


def test_the_largest_logits(exported: Exported, tmp_path: Path) -> None:
    """The same ones as of all, bit for bit, from the decoder's method."""
    lengths = ["--max-context", CONTEXT, "--max-prefill", PREFILL]
    lengths += [] if exported.reads_speech else ["--max-source", SOURCE]
    export(exported.path.parent / "model", tmp_path / "top.pte", *lengths, "--top-logits", 6)
    whole, top = TextProgram(exported.path), TextProgram(tmp_path / "top.pte")
    source = exported.source(5)
    for program in (whole, top):
        program.encode(source if exported.reads_speech else source[0].tolist())
    for tokens, position in (([*exported.start, 9, 8], 0), ([7], len(exported.start) + 2)):
        wanted, found = whole.logits(tokens, position).topk(6), top.scores(tokens, position)
        assert torch.equal(found.logits, wanted.values)
        assert found.tokens is not None
        assert torch.equal(found.tokens, wanted.indices)


def test_commands(exported: Exported, tmp_path: Path) -> None:
    """generate, verify and bench; chat says why not."""

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    if exported.reads_speech:
        np.save(tmp_path / "speech.npy", exported.source(1).numpy())
        given = ["--features", tmp_path / "speech.npy"]
    else:
        given = ["--prompt", "w1 w2"]
        code, text = run("verify", exported.path, "--prompt", "w1 w2 w3")
        assert code == 0, text
        assert "in 3 runs of delegates: all within tolerance" in text
    code, text = run("generate", exported.path, *given, "--max-new-tokens", 2)
    assert code == 0, text
    n_linears = sum(isinstance(module, torch.nn.Linear) for module in exported.model.modules())
    assert f"{n_linears} of {n_linears}" in text
    code, text = run("bench", exported.path, "--prefill", 2, "--tokens", 2)
    assert code == 0, text
    code, text = run("chat", exported.path)
    assert (code, "holds no conversation" in text) == (2, True)


def test_sources_that_do_not_fit(exported: Exported) -> None:
    model, program = TextModel(exported.path), TextProgram(exported.path)
    with pytest.raises(OptionError, match="the encoder reads"):
        model.generate("w1" if exported.reads_speech else torch.randn(1, 8, 2 * SOURCE))
    wrong = torch.randn(1, 8, 5) if exported.reads_speech else list(range(SOURCE + 1))
    with pytest.raises(OptionError, match="the encoder reads"):
        program.encode(wrong)
    with pytest.raises(OptionError, match="holds no conversation"):
        model.session()

"""TextModel, sessions and `zeropoint chat` on a tiny Llama, exported by the command with a tokenizer of words."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner

from tests.e2e.architectures import ENCODER, MAX_CONTEXT
from tests.e2e.test_checkpoints import LENGTH_OPTIONS, decoder, export, saved, words
from tests.op.by_day import by_day
from zeropoint.cli.main import main
from zeropoint.errors import OptionError
from zeropoint.llm import text_model
from zeropoint.llm.generation import TextProgram
from zeropoint.llm.sampling import Sampling
from zeropoint.llm.terminal import Terminal
from zeropoint.llm.text_model import Session, TextEncoder, TextModel
from zeropoint.llm.tuning import keep
from zeropoint.runtime import player
from zeropoint.verification.verify import verify

pytestmark = pytest.mark.usefixtures("validated")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    torch.manual_seed(1)
    saved(decoder("Llama"), folder / "model", torch.bfloat16)
    words(folder / "model")
    export(folder / "model", folder / "model.pte", *LENGTH_OPTIONS, "--layers", 1)
    return folder / "model.pte"


@pytest.fixture(scope="module")
def top_path(path: Path) -> Path:
    """The same model, which gives the eight largest logits alone."""
    export(path.with_suffix(""), path.with_name("top.pte"), *LENGTH_OPTIONS, "--layers", 1, "--top-logits", 8)
    return path.with_name("top.pte")


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    model = transformers.BertModel(transformers.BertConfig(**ENCODER), add_pooling_layer=False)
    saved(model, folder / "model", torch.float32)
    words(folder / "model")
    export(folder / "model", folder / "model.pte", "--task", "encode", "--max-prefill", 16, "--layers", 1)
    return folder / "model.pte"


@pytest.fixture
def model(path: Path) -> TextModel:
    return TextModel(path)


def said(session: Session, text: str, n: int = 3) -> str:
    return "".join(session.send(text, max_new_tokens=n))


def test_three_turns_cost_what_is_new(model: TextModel) -> None:
    """The same answers as of one prompt with all that was said, and each token computed once."""
    session = model.session("w9")
    costs, lengths = [], []
    for turn in ("w1 w2", "w3", "w4 w5 w6"):
        conversation = [*session.messages, {"role": "user", "content": turn}]
        answer = said(session, turn)
        assert answer.strip()
        assert answer == "".join(TextModel(model.path).generate(conversation, max_new_tokens=3))
        costs.append(session.statistics.computed)
        lengths.append(session.statistics.prompt)
    assert lengths == sorted(lengths)
    # Of each later prompt new are the last token of the answer before, which no token followed, and what the user says.
    assert costs == [lengths[0], lengths[1] - lengths[0] - 2, lengths[2] - lengths[1] - 2]
    assert session.computed == sum(costs) + 3 * 2


def test_rewind_and_reset(model: TextModel) -> None:
    session = model.session()
    first = said(session, "w1 w2")
    other = said(session, "w3")
    session.rewind()
    assert [item["content"] for item in session.messages] == ["w1 w2", first]
    assert said(session, "w3") == other
    assert session.statistics.computed == 1  # the last token, for its logits; the rest is still in the cache
    session.reset()
    assert said(session, "w1 w2") == first
    assert len(session.messages) == 2


def test_sessions_have_caches_of_their_own(model: TextModel) -> None:
    one, other = model.session(), model.session()
    assert len({*one.program.live, *other.program.live}) == 2
    alone = model.session().logits([5, 9, 7])
    one.logits([5, 9])
    other.logits([60, 3])
    assert torch.equal(one.logits([5, 9, 7]), alone)
    assert one.computed == 3
    answers = [said(one, "w1"), said(other, "w50 w51"), said(one, "w2"), said(other, "w52")]
    alone, also = model.session(), model.session()
    assert [said(alone, "w1"), said(alone, "w2")] == answers[::2]
    assert [said(also, "w50 w51"), said(also, "w52")] == answers[1::2]


def test_a_prompt_longer_than_one_call_takes(model: TextModel) -> None:
    tokens = [5 + index for index in range(MAX_CONTEXT - 1)]
    at_once = model.logits(tokens)
    one_by_one = TextModel(model.path)
    for end in range(1, len(tokens) + 1):
        found = one_by_one.logits(tokens[:end])
    torch.testing.assert_close(found, at_once, rtol=1e-3, atol=1e-3 * float(at_once.abs().max()))


def test_the_end_of_the_context(model: TextModel) -> None:
    text = " ".join(["w1"] * (MAX_CONTEXT - 6))
    session = model.session()
    assert said(session, text, 99)
    assert session.statistics.end == "context"
    assert session.statistics.prompt + session.statistics.generated == MAX_CONTEXT
    with pytest.raises(
        OptionError, match=r"^generate: prompt: \d\d tokens with all that was said; the context holds 32"
    ):
        session.send("w2")
    assert len(session.messages) == 2


@pytest.mark.parametrize("n_tokens", [0, MAX_CONTEXT + 1])
def test_logits_of_too_few_or_too_many_tokens(model: TextModel, n_tokens: int) -> None:
    with pytest.raises(
        OptionError, match=rf"^logits: {n_tokens} tokens; need 1 to {MAX_CONTEXT}; give a text, or a sh"
    ):
        model.logits([5] * n_tokens)


def test_the_largest_logits_are_chosen_on_the_device(model: TextModel, top_path: Path) -> None:
    """The same ones, bit for bit; what needs the others is refused before anything is drawn."""
    top = TextModel(top_path)
    for tokens in ([5], [5, 6, 7, 8]):
        wanted = model.logits(tokens).topk(8)
        found = top.session().program.scores(tokens, 0)
        assert torch.equal(found.logits, wanted.values)
        assert found.tokens is not None
        assert torch.equal(found.tokens, wanted.indices)
    session, other = top.session(), model.session()
    assert [said(session, text, 5) for text in ("w1 w2", "w3")] == [said(other, text, 5) for text in ("w1 w2", "w3")]
    drawn = Sampling(temperature=0.9, top_k=8, seed=3)
    assert len(list(top.generate("w1", max_new_tokens=3, sampling=drawn))) > 1
    with pytest.raises(OptionError, match=r"generate: top_k 9: the program gives the 8 largest logits; need 1 to 8"):
        top.generate("w1", sampling=Sampling(temperature=0.9, top_k=9))
    with pytest.raises(OptionError, match=r"top\.pte: logits: it gives the 8 largest; export without --top-logits"):
        top.logits([5])
    assert "topk_rows" in {call.kernel for program in session.program.programs() for call in program.calls}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "top_logits 0; need 1 to 1024"), (1025, "top_logits 1025; need 1 to 1024"), (1000, "the model has")],
)
def test_as_many_logits_as_there_are_not(path: Path, count: int, text: str) -> None:
    options = [*LENGTH_OPTIONS, "--layers", 1, "--top-logits", count, "-o", path.with_name("none.pte")]
    result = CliRunner().invoke(main, ["export", *map(str, [path.with_suffix(""), *options])])
    assert result.exit_code == 2
    assert text in result.output
    assert not path.with_name("none.pte").exists()


# By day those for GPUs, which no other test of a model runs on a software device.
@pytest.mark.parametrize(
    "disabled", by_day([("",), ("is_cpu",)], lambda disabled: disabled == "is_cpu"), ids=["cpu", "gpu"]
)
def test_every_algorithm_first(path: Path, disabled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of choices may name any: what a call computes is right, or its guard leaves it to another."""
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    text, shapes = TextProgram(path), dict[str, tuple[str, ...]]()
    for tokens, position in ([5], 0), ([5] * 3, 9), ([5] * text.metadata.max_prefill, 0):
        text.scores(tokens, position)
        shapes |= {pick.signature: pick.candidates for live in text.live for pick in player.picks_of(live)}
    target = player.choices_of(text.live[0]).path
    assert target is not None
    ran = set()
    for place in range(max(map(len, shapes.values()))):
        keep(target, shapes, {item: names[min(place, len(names) - 1)] for item, names in shapes.items()})
        found = verify(path, prompt="w1 w2 w3 w4 w5 w6 w7 w8 w9")
        assert found.is_right, str(found)
        ran |= {(pick.kernel, pick.algorithm) for run in found.runs for pick in run.picks.values()}
    assert len({algorithm for kernel, algorithm in ran if kernel == "linear_dq8ca"}) >= 3


def test_sampling_stops_and_reasons(model: TextModel) -> None:
    wild = Sampling(temperature=3.0, seed=5)
    texts = ["".join(model.generate("w1", max_new_tokens=6, sampling=wild)) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0] != "".join(model.generate("w1", max_new_tokens=6, sampling=Sampling(temperature=3.0, seed=6)))
    assert model.statistics.end in ("limit", "end token")
    greedy = "".join(model.generate("w1", max_new_tokens=6))
    second = greedy.split()[1]
    cut = "".join(model.generate("w1", max_new_tokens=6, sampling=Sampling(stop=(second,))))
    assert cut == greedy[: greedy.index(second)]
    assert model.statistics.end == "stop text"


def test_an_answer_that_is_closed_early_is_kept(model: TextModel) -> None:
    session = model.session()
    pieces = session.send("w1", max_new_tokens=9)
    shown = next(pieces)
    pieces.close()
    assert session.messages[-1] == {"role": "assistant", "content": shown}
    assert said(session, "w2")


def conversation(model: TextModel, *lines: str) -> tuple[list[str], list[str], Terminal]:
    """What a terminal wrote and noted; Ctrl-C falls on the first piece of an answer to "w8"."""
    written: list[str] = []
    notes: list[str] = []
    left = list(lines)

    def read() -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    def write(text: str) -> None:
        written.append(text)
        if lines[0] == "w8" and len(written) == 1:
            raise KeyboardInterrupt

    session = model.session("w9")
    terminal = Terminal(session, read, write, notes.append, Sampling(), max_new_tokens=3)
    terminal.run()
    return written, notes, terminal


def test_terminal(model: TextModel) -> None:
    written, notes, terminal = conversation(
        model, "w8", "w1", "/stats", "/rewind", "/rewind", "/what", "", "/reset", "w1", "/exit", "w2"
    )
    assert terminal.session.statistics.end == "limit"
    assert [item["role"] for item in terminal.session.messages] == ["system", "user", "assistant"]
    assert notes[0].endswith("tokens computed in all")
    assert notes[1:3] == ["1 turns are left", "0 turns are left"]
    assert notes[3].startswith("/what: unknown; /reset begins anew")
    assert notes[4:] == ["a new conversation"]
    assert written.count("\n") == 3


def test_terminal_at_the_end_of_the_context(model: TextModel) -> None:
    _, notes, _ = conversation(model, " ".join(["w1"] * (MAX_CONTEXT - 6)), "w2")
    full = "the context of 32 tokens is full; /reset or /rewind, or export with a larger --max-context"
    assert notes[0] == full
    assert notes[1].startswith("generate: prompt: ")


def test_chat_command(path: Path) -> None:
    result = CliRunner().invoke(main, ["chat", str(path), "-n", "2", "--system", "w9"], input="w1\n/stats\n/exit\n")
    assert result.exit_code == 0, result.output
    assert "ended by" in result.output
    bad = CliRunner().invoke(main, ["chat", str(path), "--top-p", "0"])
    assert (bad.exit_code, bad.output) == (2, "Error: generate: top_p 0.0; need more than 0, to 1\n")


def test_examples_in_docstrings(path: Path, encoder_path: Path) -> None:
    names = {"path": path, "encoder_path": encoder_path, "TextModel": TextModel, "TextEncoder": TextEncoder}
    runner, n_examples = doctest.DocTestRunner(), 0
    for test in doctest.DocTestFinder().find(text_model, globs=names):
        n_examples += len(test.examples)
        assert runner.run(test).failed == 0, test.name
    assert n_examples >= 10


def test_embeddings(encoder_path: Path) -> None:
    encoder = TextEncoder(encoder_path)
    found = encoder.embed("w1 w2")
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-5)
    assert not torch.equal(found, encoder.embed("w3"))


def test_running_needs_no_transformers(path: Path) -> None:
    """Nor gguf, accelerate or safetensors."""
    code = (
        "import sys\n"
        "for name in ('transformers', 'gguf', 'accelerate', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from zeropoint.llm import TextModel\n"
        f"print(''.join(TextModel({str(path)!r}).generate('w1', max_new_tokens=2)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()

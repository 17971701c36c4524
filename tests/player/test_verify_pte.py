"""zeropoint verify on a device: healthy programs are right, and a broken shader is named by its call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import Whitespace

import zeropoint
from tests.e2e.models import Activations, Linears, QuantizedLinear, Weights
from tests.e2e.running import export, lower, rows_of
from tests.op.calls import mutated_library
from tests.op.chain import Chain, build, random_weights
from tests.op.mutated import library
from tests.op.rows import quantization_rows
from tests.player.test_state import log, rows
from tests.unit.llm.small import METADATA, VOCABULARY, write
from tests.unit.rules import test_quantized_caches as quantized_caches
from zeropoint import ProgramBuilder
from zeropoint.cli.main import main
from zeropoint.llm.files import tokenizer_path
from zeropoint.program import SymbolOp
from zeropoint.verification import verify as verification
from zeropoint.verification.verify import verify_program

K, N = 64, 24


class Between(torch.nn.Module):
    """Two quantized linears with an operator between them that stays on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.activations = Activations()
        self.first = QuantizedLinear(K, Weights(n=K, group_size=32))
        self.second = QuantizedLinear(K, Weights(n=N, group_size=32, bias=True), seed=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.activations(torch.tanh(self.first(self.activations(x)))))


class Cached(torch.nn.Module):
    """Rows written at their positions into a cache, which is read whole afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 8, 16))

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        self.cache.index_copy_(1, position, torch.sigmoid(x))
        return self.cache.softmax(-1)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quantized linear of 1 to 16 rows."""
    module = Linears(K, Activations(), (Weights(n=N, group_size=32, bias=True),))
    path = tmp_path_factory.mktemp("verify") / "linear.pte"
    path.write_bytes(lower(export(module, rows_of(K, 4), max_sizes={0: 16}))[0])
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two delegates with a CPU operator between them."""
    path = tmp_path_factory.mktemp("verify") / "parts.pte"
    options = zeropoint.CompileOptions(operators="linear")
    path.write_bytes(lower(export(Between(), rows_of(K, 3)), options)[0])
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text program whose tokenizer knows the words w0, w1 and so on."""
    path = write(tmp_path_factory.mktemp("verify") / "text.pte", METADATA)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tokenizer_path(path)))
    return path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def break_linear(monkeypatch: pytest.MonkeyPatch, *, delegate: int = 0) -> None:
    """The last element of what one delegate's linear left behind is off, as after a wrong shader."""
    read = verification._Delegate._read

    def broken(self: verification._Delegate, index: int) -> torch.Tensor:
        value = read(self, index)
        (call,) = [item for item in self.program.calls if item.kernel == "linear_dq8ca"]
        if self.index == delegate and index == call.tensor("y"):
            value.view(-1)[-1] += 1
        return value

    monkeypatch.setattr(verification._Delegate, "_read", broken)


@pytest.mark.parametrize("options", [{}, {"storage": "image", "asymmetric": True, "zp": "f32"}, {"compute": "f16"}])
@pytest.mark.parametrize("n_rows", [1, 19])
def test_a_healthy_program_is_right(options: dict[str, object], n_rows: int) -> None:
    chain = Chain(k=96, n=37, group_size=32, **options)  # type: ignore[arg-type]
    x = quantization_rows(96)[8 : 8 + n_rows].to(torch.float16 if chain.compute == "f16" else torch.float32)
    found = verify_program(*build(chain, random_weights(chain)), [x])
    assert found.is_right, str(found)
    assert found.runs[0].symbols == (n_rows,)


@pytest.mark.parametrize(
    ("kernel", "algorithm", "call"),
    [("quantize_and_pack", "blocks", 1), ("linear_dq8ca", "gemv_pair", 2)],
)
def test_a_broken_shader_is_named_and_no_other(
    kernel: str, algorithm: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shader that takes its int8 zero points for f32."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    chain = Chain(k=96, n=37, group_size=32)
    program, constants = build(chain, random_weights(chain))
    x = quantization_rows(chain.k)[8:27]
    honest = library(chain, kernel=kernel, algorithm=algorithm, read_as=None)
    assert verify_program(program, constants, [x], library=honest).is_right
    broken = library(chain, kernel=kernel, algorithm=algorithm, read_as="f32")
    found = verify_program(program, constants, [x], library=broken)
    (run,) = found.runs
    assert {check.call for check in run.checks if not check.is_right} == {call}
    assert not found.is_right
    verdict = found.verdict()
    assert f"call {call} {kernel}: slot" in verdict
    assert f"variant    {kernel}/{algorithm}[" in verdict
    assert ".comp" in verdict
    assert "zp         i8 [19] zp (buffer, arena)" in verdict


def test_states_are_what_they_were_before_the_run() -> None:
    """The state starts with contents, is written in part, and is read after that through an alias."""
    first = np.arange(24, dtype=np.float32).reshape(6, 4)
    found = verify_program(*log(first=first), [torch.from_numpy(rows(2, 5.0))])
    assert found.is_right, str(found)
    assert [check.call for check in found.runs[0].checks] == [0, 0, 1]  # the last of call 0: what it must not write
    assert [check.untouched for check in found.runs[0].checks] == [False, True, False]


def test_symbols_that_no_dimension_has_are_known() -> None:
    """start is in an attribute alone, area is a product of two sizes."""
    b = ProgramBuilder()
    n, m, start = b.symbol("n", 1, 9), b.symbol("m", 1, 9), b.symbol("start", 0, 9)
    b.derived(SymbolOp.PRODUCT, n, m)
    x, y = b.tensor("x", "f32", [n, m]), b.tensor("y", "i32", [4])
    b.input(x)
    b.input_symbol(start)
    b.call("arange", {"y": y}, {"start": start, "step": 1})
    b.output(y)
    found = verify_program(*b.build(), [rows_of(4, 3), 7])
    assert found.is_right, str(found)
    assert found.runs[0].symbols == (3, 4, 7, 12)


def test_a_broken_cache_kernel_is_named() -> None:
    """It puts every token one place too far: elements that it must write, and one that no call writes, are wrong."""
    b = ProgramBuilder()
    x, position = b.tensor("x", "f32", [1, 2, 4, 8]), b.tensor("position", "i32", [1])
    cache = b.state("cache", "f32", [1, 2, 9, 8])
    b.input(x)
    b.input(position)
    attrs = {"heads": 2, "head_dim": 8, "x_layout": 0, "x_first": 0, "cache_layout": 0, "position_mode": 0}
    b.call("update_cache", {"x": x, "position": position, "cache": cache}, attrs)
    b.output(x)
    program, constants = b.build()
    inputs = [rows_of(8, 8).reshape(1, 2, 4, 8), torch.tensor([1], dtype=torch.int32)]
    assert verify_program(program, constants, inputs).is_right
    source = ("lib/positions.glsl", "int(s * position_step)", "int(s * position_step) + 1")
    found = verify_program(program, constants, inputs, library=mutated_library("update_cache", *source))
    checks = [(check.call, check.slot, check.untouched) for check in found.runs[0].checks if not check.is_right]
    assert checks == [(0, "cache", False), (0, "cache", True)]
    assert "cache      f32 [1, 2, 9, 8] cache (buffer, state)" in found.verdict()


def test_a_pte_with_a_cache(tmp_path: Path) -> None:
    exported = torch.export.export(Cached().eval(), (torch.randn(1, 3, 16), torch.arange(3)))
    path = tmp_path / "cached.pte"
    path.write_bytes(lower(exported)[0])
    found = zeropoint.verify(path, [rows_of(16, 3).reshape(1, 3, 16), torch.tensor([5, 1, 2])])
    assert found.is_right, str(found)
    checks = [check for check in found.runs[0].checks if found.runs[0].picks[check.call].kernel == "scatter"]
    assert [(check.n_elements, check.untouched) for check in checks] == [(48, False), (80, True)]


def test_a_pte_with_int8_caches(tmp_path: Path) -> None:
    exported = torch.export.export(quantized_caches.Layer().eval(), quantized_caches.inputs(3, 5))
    path = tmp_path / "cached.pte"
    path.write_bytes(lower(exported, quantized_caches.I8)[0])
    found = zeropoint.verify(path, list(quantized_caches.inputs(3, 9)))
    assert found.is_right, str(found)
    assert [pick.kernel for pick in found.runs[0].picks.values()].count("update_cache_q8") == 2


def test_a_pte_with_inputs_and_without(linear: Path) -> None:
    made_up = zeropoint.verify(linear)
    given = zeropoint.verify(linear, [rows_of(K, 3)])
    assert made_up.is_right, str(made_up)
    assert given.is_right, str(given)
    assert (made_up.runs[0].symbols, given.runs[0].symbols) == ((16,), (3,))
    assert [pick.kernel for pick in given.runs[0].picks.values()][-1] == "linear_dq8ca"


def test_every_delegate_is_verified_on_its_own_inputs(parts: Path) -> None:
    found = zeropoint.verify(parts, [rows_of(K, 3)])
    assert [run.delegate for run in found.runs] == [0, 1]
    assert found.is_right, str(found)


@pytest.mark.parametrize("delegate", [0, 1])
def test_a_fault_is_found_in_its_delegate(parts: Path, delegate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    break_linear(monkeypatch, delegate=delegate)
    found = zeropoint.verify(parts, [rows_of(K, 3)])
    wrong = [(run.delegate, run.picks[check.call].kernel) for run in found.runs for check in run.checks
             if not check.is_right]  # fmt: skip
    assert wrong == [(delegate, "linear_dq8ca")]


def test_a_prompt_and_the_token_after_it(text: Path) -> None:
    found = zeropoint.verify(text, prompt="w1 w2 w3 w4 w5 w6 w1 w2")
    assert found.is_right, str(found)
    assert [run.what for run in found.runs] == [
        "tokens 0 to 5 of the prompt",
        "tokens 6 to 7 of the prompt",
        "the token after the prompt",
    ]


def test_the_command_says_by_its_exit_code(linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", rows_of(K, 3).numpy())
    right = command(linear, "--inputs", tmp_path / "x.npy")
    assert right.exit_code == 0, right.output
    assert right.output.splitlines()[-1] == "2 calls in 1 runs of delegates: all within tolerance"
    break_linear(monkeypatch)
    wrong = command(linear, "--inputs", tmp_path / "x.npy")
    assert wrong.exit_code == 1
    assert "slot y is wrong" in wrong.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("missing.pte",), "missing.pte: no such file"),
        (("--method", "backward"), "method 'backward'; offered forward"),
        (("--input", "missing.npy"), "missing.npy: no such file; need a .npy array"),
    ],
)
def test_what_cannot_be_verified(linear: Path, arguments: tuple[str, ...], text: str) -> None:
    result = command(*arguments) if arguments[0].endswith(".pte") else command(linear, *arguments)
    assert result.exit_code == 2
    assert text in result.output

"""Every architecture of transformers that the README lists: by the documented call one delegate, equal to eager."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from executorch.exir._serialize._program import deserialize_pte_binary
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from tests.e2e import architectures, codes
from tests.e2e.architectures import DECODERS, OTHERS
from tests.e2e.running import lower

pytestmark = pytest.mark.usefixtures("validated")
LENGTHS = [5, 1, 7, 1]  # of a decoder's calls; together longer than the sliding windows
TOKENS, N_CALLS = 3, 4  # of the decoders of one length, which are exported in half the time
FAST = ("Llama", "Mixtral", *OTHERS)  # the other decoders cost half a minute each and run nightly


def nightly(names: Iterable[str]) -> list[object]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


def written(program: ExportedProgram, folder: Path) -> Path:
    """The .pte, after its one method has been seen to be one delegate call and nothing else."""
    path = folder / "model.pte"
    path.write_bytes(lower(program)[0])
    (plan,) = deserialize_pte_binary(path.read_bytes()).program.execution_plan
    assert (len(plan.delegates), [operator.name for operator in plan.operators]) == (1, [])
    return path


class Comparison:
    """Calls of a program beside eager's. A code that fell the other way stays in the cache, so from then on no call
    is exact.
    """

    def __init__(self, path: Path) -> None:
        self.program, self.n_different, self.errors = codes.KeptProgram(path), 0, []

    def check(self, eager: Callable[[], torch.Tensor], *inputs: torch.Tensor) -> None:
        found = self.program(*inputs)
        with torch.no_grad(), codes.recorded() as quantized:
            wanted = eager()
        assert found.shape == wanted.shape
        error = float((found - wanted).norm() / wanted.norm())
        self.errors.append(error)
        difference = codes.compare(self.program.quantized([len(item.q) for item in quantized]), quantized)
        print(f"{difference.n_different} of {difference.n_codes} codes, {difference.furthest:.1e}, result {error:.1e}")
        if self.n_different == 0:
            codes.assert_as_eager(difference, error)
        assert error <= codes.ROUNDED
        self.n_different += difference.n_different


@pytest.mark.parametrize("name", nightly(DECODERS))
def test_decoder(name: str, tmp_path: Path) -> None:
    """Several tokens in each call, with the cache in the delegate."""
    model = DECODERS[name].model()
    run = Comparison(written(architectures.exported_with_cache(model, tokens=TOKENS), tmp_path))
    continue_text(run, model, [TOKENS] * N_CALLS)


@pytest.mark.slow
def test_decoder_of_any_length(tmp_path: Path) -> None:
    """A prompt, a token, another prompt and a token; the last position's logits."""
    model = DECODERS["Llama"].model()
    run = Comparison(written(architectures.exported_of_any_length(model), tmp_path))
    continue_text(run, model, LENGTHS, logits_to_keep=1)


def continue_text(run: Comparison, model: PreTrainedModel, lengths: list[int], *, logits_to_keep: int = 0) -> None:
    tokens, first = architectures.ids(sum(lengths)), 0
    calls = architectures.eager_calls(model, tokens, lengths, logits_to_keep=logits_to_keep)
    for length, eager in zip(lengths, calls, strict=True):
        run.check(eager, tokens[:, first : first + length], torch.arange(first, first + length))
        first += length


@pytest.mark.parametrize("name", nightly(OTHERS))
def test_without_cache(name: str, tmp_path: Path) -> None:
    module, inputs, shapes = OTHERS[name]()
    run = Comparison(written(torch.export.export(module, inputs, dynamic_shapes=shapes), tmp_path))
    run.check(lambda: module(*inputs), *inputs)

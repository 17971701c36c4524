"""A decoder whose single steps attend in one dispatch: the same caches and logits as with the separate kernels."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.export import ExportedProgram
from transformers import LlamaConfig, LlamaForCausalLM

from tests.edge import edge_program
from tests.op.calls import device_facts
from zeropoint import CompileOptions
from zeropoint.export.preprocess import lower_program
from zeropoint.kernels.dtypes import DType
from zeropoint.llm.export import export_decoder
from zeropoint.program import Memory
from zeropoint.runtime.player import LoadedProgram

pytestmark = pytest.mark.usefixtures("validated")
WORDS = 96
FUSED = ["rotary_attention"]
LENGTHS = (3, 1, 1, 3, 1)
TOLERANCE = 1e-6  # relative RMS of the logits: sums in another order, through one layer of floats


@dataclass(frozen=True)
class Steps:
    """By step: the logits, and the kernels of rotary embedding and attention that ran; and the caches at the end."""

    logits: list[torch.Tensor]
    kernels: list[list[str]]
    caches: list[torch.Tensor]


@functools.cache
def decoder(*, max_context: int, max_prefill: int) -> ExportedProgram:
    """SmolLM2's heads and a narrow feed-forward, one layer; in floats, for codes would turn a last bit into a step."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=192,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=max_context,
        tie_word_embeddings=True,
    )
    return export_decoder(LlamaForCausalLM(config).eval(), max_context=max_context, max_prefill=max_prefill)


def run(exported: ExportedProgram, options: CompileOptions) -> Steps:
    program, constants = lower_program(edge_program(exported, options), options)
    tokens = torch.randint(1, WORDS, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    found = Steps([], [], [])
    with LoadedProgram(program, constants) as loaded:
        first = 0
        for length in LENGTHS:
            places = np.arange(first, first + length, dtype=np.int64)
            (logits,) = loaded.execute([tokens[:, first : first + length].numpy(), places])
            found.logits.append(torch.from_numpy(logits))
            ran = [pick.kernel for pick in loaded.picks()]
            found.kernels.append([kernel for kernel in ran if "attention" in kernel or "rotary" in kernel])
            first += length
        for index, tensor in enumerate(program.tensors):
            if tensor.memory is Memory.STATE and tensor.dtype is DType.F32 and tensor.alias_of < 0:
                found.caches.append(torch.from_numpy(loaded.read_tensor(index).copy()))
    return found


@pytest.mark.parametrize(
    ("max_context", "max_prefill", "plain"),
    [
        (64, 16, ["rotary_update_cache", "attention"]),
        pytest.param(
            256,
            8,
            ["rotary_update_cache", "attention_decode_partial", "attention_decode_reduce"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["whole", "split"],
)
def test_steps_of_one_token_and_of_more(
    max_context: int, max_prefill: int, plain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    exported = decoder(max_context=max_context, max_prefill=max_prefill)
    fused = run(exported, CompileOptions(fusions="rope_cache,rope_attention"))
    separate = run(exported, CompileOptions(fusions="rope_cache"))
    assert fused.kernels == [FUSED if length == 1 else plain for length in LENGTHS]
    assert separate.kernels == [plain for _ in LENGTHS]
    assert len(fused.caches) == len(separate.caches) == 2
    for cache, wanted in zip(fused.caches, separate.caches, strict=True):
        assert torch.equal(cache, wanted)
        assert cache[:, :, : sum(LENGTHS)].ne(0).any(-1).all()
    for logits, wanted in zip(fused.logits, separate.logits, strict=True):
        assert float((logits - wanted).norm() / wanted.norm()) <= TOLERANCE


def test_a_software_device_takes_the_separate_kernels() -> None:
    kernels = run(decoder(max_context=64, max_prefill=16), CompileOptions(fusions="rope_cache,rope_attention")).kernels
    assert (FUSED in kernels) != bool(device_facts()["is_cpu"])

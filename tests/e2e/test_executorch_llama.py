"""ExecuTorch's own Llama export, 8da4w with its cache and its custom operators, in one delegate of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from executorch.examples.models.llama.llama_transformer import construct_transformer
from executorch.examples.models.llama.model_args import ModelArgs
from torch import nn

from zeropoint import OptionError, inspect
from zeropoint.llm.executorch_llama import export_llama
from zeropoint.runtime.running import open_program

pytestmark = pytest.mark.usefixtures("validated")
SIZES = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 97, "hidden_dim": 96}
OPTIONS = ["-kv", "-qmode", "8da4w", "-G", "32", "-d", "fp32", "--max_seq_length", "32", "--max_context_length", "32"]


def write_checkpoint(folder: Path) -> None:
    """params.json and consolidated.00.pth of a tiny random Llama, as ExecuTorch's export reads them."""
    (folder / "params.json").write_text(json.dumps({**SIZES, "norm_eps": 1e-5, "rope_theta": 10000.0}))
    weights = construct_transformer(ModelArgs(**SIZES, max_seq_len=32, max_context_len=32)).state_dict()
    for name, weight in weights.items():
        weight.copy_(torch.randn(weight.shape) * 0.1 + ("norm" in name))
    torch.save(weights, folder / "consolidated.00.pth")


def export(folder: Path, *more: str) -> tuple[Path, nn.Module]:
    """The .pte, and ExecuTorch's quantized module."""
    write_checkpoint(folder)
    weights = folder / "consolidated.00.pth"
    files = ["--params", str(folder / "params.json"), "--checkpoint", str(weights), "-o", str(folder)]
    arguments = [*files, *OPTIONS, *more]
    return folder / "llama.pte", export_llama(arguments, folder / "llama.pte").model


@pytest.mark.slow  # the README's block exports such a model in the fast half
def test_the_same_logits_in_one_delegate(tmp_path: Path) -> None:
    path, eager = export(tmp_path, "--use_sdpa_with_kv_cache")
    (delegate,) = inspect(path).delegates
    kernels = [call.kernel for call in delegate.program.calls]
    assert kernels.count("linear_dq8ca") == 9  # q, k and v are one, and gate and up
    assert kernels.count("rotary_update_cache") == kernels.count("attention") == 2
    program = open_program(path)
    forward, position = program.load_method("forward"), 0
    for length in (7, 1, 1, 4, 1):
        tokens, start = torch.randint(1, SIZES["vocab_size"], (1, length)), torch.tensor([position])
        (found,) = forward.execute([tokens, start])
        with torch.no_grad():
            wanted = eager(tokens, {"input_pos": start})
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        position += length
    assert {"get_max_seq_len", "get_vocab_size", "use_kv_cache"} <= set(program.method_names)


def test_another_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^export_llama: --vulkan: another backend; leave it out"):
        export_llama(["--vulkan"], tmp_path / "llama.pte")
    assert not (tmp_path / "llama.pte").exists()

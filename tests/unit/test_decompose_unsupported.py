"""decompose_unsupported: rewrites what the rules refuse, exactly, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.e2e.models import Activations, Linears, Weights, per_token
from tests.e2e.running import export
from tests.e2e.test_linear import PerTensor
from zeropoint import Unsupported, decompose_unsupported
from zeropoint.export.passes import decompose_unsupported as module


def targets(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_only_the_refused_chain_is_rewritten() -> None:
    model = PerTensor()
    x = torch.randn(3, 64)
    before = export(model, x)
    count = targets(before).count("torchao.choose_qparams_affine.default")
    after = decompose_unsupported(before)
    assert count == 2
    assert targets(after).count("torchao.choose_qparams_affine.default") == 1
    assert targets(after).count("torchao.dequantize_affine.default") == 3  # one activation, two weights
    assert targets(before).count("torchao.choose_qparams_affine.default") == 2  # the argument is not modified
    assert torch.equal(after.module()(x), model(x))


def test_a_program_that_the_rules_take_whole_is_left_as_it_is() -> None:
    program = export(Linears(32, Activations(), (Weights(n=8, group_size=32),)), torch.randn(2, 32))
    assert targets(decompose_unsupported(program)) == targets(program.run_decompositions({}))


class Loose(nn.Module):
    """Quantization without a linear, of both namespaces."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = Activations()(x) + Activations(form="per_token_asymmetric")(x) + Activations(form="per_token")(x)
        codes = (y * 3).round().clamp(-8, 7).to(torch.int8)
        scales = torch.ones(3, 4)
        return y + per_token.dequantize_per_channel_group(codes, scales, None, -8, 7, torch.int8, 8, torch.float32)


def test_every_operator_of_both_namespaces() -> None:
    x = torch.randn(3, 32)
    after = decompose_unsupported(export(Loose(), x))
    assert not [name for name in targets(after) if name.startswith(("torchao", "quantized_decomposed", "zeropoint"))]
    assert torch.equal(after.module()(x), Loose()(x))


def test_an_operator_without_a_decomposition_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._ops.OpOverload, "has_kernel_for_dispatch_key", lambda self, key: False)
    with pytest.raises(
        Unsupported, match=r"^decompose_unsupported: aten\.add\.Tensor: it is not made of other operators"
    ):
        module._composite_key(torch.ops.aten.add.Tensor)

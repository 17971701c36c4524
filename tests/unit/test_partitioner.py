"""Partitioner: what is tagged, into how many delegates, and what stays with which reason."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from executorch.exir import to_edge_transform_and_lower
from torch import nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_
from torchao.quantization.qat import QATConfig

from tests.e2e.models import Activations, Linears, QuantizedLinear, Weights, per_token
from tests.e2e.running import export, lower
from zeropoint import (
    CompileOptions,
    OptionError,
    Unsupported,
    ZeropointPartitioner,
    decompose_unsupported,
    explain,
    inspect,
    quantize,
)
from zeropoint.export.matching import group_anchors, match_program
from zeropoint.export.preprocess import CompileSpec, lower_program, read_options
from zeropoint.rules.linear.weight import DEQUANTIZE

SMALL = Weights(n=16, group_size=16)
LINEARS_ONLY = CompileOptions(operators="linear")  # so that something stays outside


class Attention(nn.Module):
    """q, k, v of one input, a CPU op, an output projection, and a second input's projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(Linears(16, Activations(), (SMALL,)) for _ in range(3))
        self.out = Linears(16, Activations(), (SMALL,))
        self.gate = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (linear(x)[0] for linear in self.qkv)
        mixed: torch.Tensor = self.gate(torch.softmax(q * k, -1) * v)
        return mixed + self.out(mixed)[0]


def test_sharers_of_an_input_are_one_delegate() -> None:
    torch.manual_seed(0)
    pte, partitioner = lower(export(Attention(), torch.randn(3, 16)), LINEARS_ONLY)
    kernels = [[call.kernel for call in item.calls] for item in inspect(pte).programs]
    quantize = ["quantize_rows"]
    assert kernels == [[*quantize, *["linear_dq8ca"] * 3], [*quantize, "linear_dq8ca"]]
    assert set(partitioner.reasons.values()) == {
        *(f"no rule for aten.{name}" for name in ("mul.Tensor", "_softmax.default", "add.Tensor", "permute.default")),
        "weight p_gate_weight is not quantized (placeholder); offered " + ", ".join(DEQUANTIZE),
    }


def test_explain_table(golden: Callable[[str, str], None]) -> None:
    torch.manual_seed(0)
    golden("explain_attention", str(explain(export(Attention(), torch.randn(3, 16)), LINEARS_ONLY)))


class Formats(nn.Module):
    """Operators before and behind a conversion to channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = torch.relu(x).to(memory_format=torch.channels_last)
        return torch.exp(last)


def test_tensors_in_another_dimension_order_stay_outside() -> None:
    """The player refuses them when it runs, so the partitioner must first."""
    x = torch.randn(2, 3, 4, 5)
    _, partitioner = lower(torch.export.export(Formats(), (x,)))
    strides = "strides (60, 1, 15, 3); offered the default dimension order"
    left = ("dim_order_ops__to_dim_order_copy_default", "aten_exp_default")
    assert partitioner.reasons == {name: f"{name} is handed out with {strides}" for name in left}
    program = torch.export.export(nn.ReLU(), (x.to(memory_format=torch.channels_last),))
    assert [row.outcome for row in explain(program).left_out] == [f"aten_relu_default is handed out with {strides}"]
    _, partitioner = lower(program)
    assert set(partitioner.reasons) == {"aten_relu_default"}


class Detour(nn.Module):
    """Three linears; a path leaves the first and reaches the second through a CPU op."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linears(16, Activations(form="none"), (SMALL,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)[0]
        return self.linear(x + torch.sin(y))[0] + self.linear(x)[0]


def test_a_path_through_the_outside_is_a_cycle() -> None:
    program = export(Detour(), torch.randn(3, 16))
    matching = match_program(program, LINEARS_ONLY)
    groups = group_anchors(program, matching)
    assert [[node.name for node in group] for group in groups] == [["linear", "linear_2"], ["linear_1"]]


class Shared(nn.Module):
    """A dequantized activation that a linear shares with an op outside."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = QuantizedLinear(16, SMALL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantized = Activations()(x)
        return self.linear(quantized) + quantized


def test_a_chain_that_also_feeds_the_outside_stays_whole() -> None:
    program = export(Shared(), torch.randn(3, 16))
    reasons = {node.name: reason for node, reason in match_program(program, LINEARS_ONLY).reasons.items()}
    assert reasons["linear"] == "dequantize_affine also feeds add, which stays outside"
    assert reasons["quantize_affine"] == "part of linear: dequantize_affine also feeds add, which stays outside"


def test_leftovers_are_an_error_unless_another_partitioner_follows() -> None:
    program = export(Shared(), torch.randn(3, 16))
    with pytest.raises(Unsupported, match=r"choose_qparams_affine\.default stays outside .*also feeds .*which stays"):
        lower(program, LINEARS_ONLY)
    keeping = ZeropointPartitioner(CompileOptions(operators="linear", leftover_quantization="keep"))
    to_edge_transform_and_lower(program, partitioner=[keeping])


@pytest.mark.parametrize("shape", [(2, 16), (1, 2, 16), (2, 3, 4, 16)])
def test_a_leftover_has_the_reason_of_its_linear_however_it_is_reshaped(shape: tuple[int, ...]) -> None:
    """A batch of rows is a view in the edge dialect, which a rule takes: the reason goes through it."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = QuantizedLinear(16, SMALL)
            self.linear.zeros = self.linear.zeros.int() + 1000

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(Activations()(x))

    partitioner = ZeropointPartitioner(CompileOptions(leftover_quantization="keep"))
    program = export(Scaled(), torch.randn(shape))
    to_edge_transform_and_lower(program, partitioner=[partitioner])
    chain = {name: why for name, why in partitioner.reasons.items() if "torchao" in name or "getitem" in name}
    assert len(chain) == 6  # choose, its two results, quantize, and both dequantize
    assert all("weight zero points linear.zeros are not all integers" in why for why in chain.values()), chain


def test_weights_that_only_real_data_refuses() -> None:
    """The documented call shows them to the partitioner. Otherwise preprocess refuses, with the node and the reason."""
    linear = QuantizedLinear(16, SMALL)
    linear.zeros = linear.zeros.int() + 1000
    program = export(linear, torch.randn(2, 16))
    with pytest.raises(
        Unsupported, match=r"accepted by the partitioner, but with the real weights: .*not all integers"
    ):
        lower_program(program.run_decompositions({}), LINEARS_ONLY)
    with pytest.raises(Unsupported, match=r"stays outside the delegate \(part of .*not all integers"):
        lower(program, LINEARS_ONLY)


@pytest.mark.parametrize("wide", ["first", "second"])
def test_methods_are_matched_with_their_own_weights(wide: str) -> None:
    """Their names and shapes are equal; the one whose weight zero points are too large is refused, not the other."""
    programs = {}
    for method in ("first", "second"):
        linear = QuantizedLinear(16, SMALL)
        linear.zeros = linear.zeros.int() + (1000 if method == wide else 0)
        programs[method] = export(linear, torch.randn(2, 16))
    keep = CompileOptions(leftover_quantization="keep")
    partitioners = {method: [ZeropointPartitioner(keep)] for method in programs}
    to_edge_transform_and_lower(programs, partitioner=partitioners)
    alone = {method: bool(item.reasons) for method, (item,) in partitioners.items()}
    with pytest.raises(Unsupported, match=r"stays outside the delegate \(part of .*not all integers"):
        to_edge_transform_and_lower(programs, partitioner=[ZeropointPartitioner()])
    assert alone == {method: method == wide for method in programs}


def test_a_program_can_be_lowered_again() -> None:
    """With other options, say: what a delegate owns is not taken out of the caller's program."""

    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = QuantizedLinear(16, SMALL)
            self.scale = nn.Parameter(torch.ones(16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.linear(x) * self.scale)[torch.tensor([1, 0])]

    program = export(Constants(), torch.randn(2, 16))
    explain(program)
    first, second = (lower(program)[0] for _ in range(2))
    assert first == second


def test_mutated_buffers_are_inputs_not_constants() -> None:
    class Mutating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("state", torch.zeros(2, 16))
            self.linear = QuantizedLinear(16, SMALL)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.state.add_(x)
            return self.linear(Activations()(self.state))

    (program,) = inspect(lower(export(Mutating(), torch.randn(2, 16)), LINEARS_ONLY)[0]).programs
    assert len(program.inputs) == 1


def test_per_token_operators_reach_the_edge_dialect() -> None:
    assert per_token.choose_qparams_per_token.default is not None
    model = Linears(16, Activations(form="per_token"), (SMALL,))
    assert lower(export(model, torch.randn(2, 16)))[1].reasons == {}


def test_unknown_compile_specs_are_refused() -> None:
    with pytest.raises(OptionError, match=r"^compile spec 'speed': unknown; offered options$"):
        read_options([CompileSpec("speed", b"1")])


SCRIPT = """
import hashlib, torch
from tests.unit.test_partitioner import LINEARS_ONLY, Attention
from tests.e2e.running import export, lower
torch.manual_seed(0)
pte, _ = lower(export(Attention(), torch.randn(3, 16), max_sizes={0: 9}), LINEARS_ONLY)
print(hashlib.sha256(pte).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes() -> None:
    found = set()
    for seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment
        )
        found.add(done.stdout.strip().splitlines()[-1])
    assert len(found) == 1
    assert len(found.pop()) == len(hashlib.sha256().hexdigest())


def test_a_checkpoint_that_was_assigned_lowers() -> None:
    """load_state_dict(assign=True) leaves weights of integer codes that are said to need gradients."""
    source = quantize(nn.Sequential(nn.Linear(32, 16)))
    model, x = nn.Sequential(nn.Linear(32, 16)), torch.randn(2, 32)
    model.load_state_dict(source.state_dict(), assign=True)
    assert model[0].weight.requires_grad
    program = torch.export.export(model.eval(), (x,))
    pte, _ = lower(program)
    assert len(inspect(pte).delegates) == 1
    assert model[0].weight.requires_grad  # the user's
    assert explain(torch.export.export(model, (x,))).left_out == ()
    decompose_unsupported(torch.export.export(model, (x,)))


def test_a_model_in_training_must_be_converted() -> None:
    model = nn.Sequential(nn.Linear(32, 16))
    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))
    quantize_(model, QATConfig(config, step="prepare"))
    program = torch.export.export(model.eval(), (torch.randn(2, 32),))
    with pytest.raises(
        Unsupported, match=r"^0.*: prepared for quantization-aware training, .*; convert the model first"
    ):
        lower(program)
    quantize_(model, QATConfig(config, step="convert"))
    assert len(inspect(lower(torch.export.export(model, (torch.randn(2, 32),)))[0]).delegates) == 1


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.lstm(x)[0])


@pytest.mark.parametrize(
    "module", [Recurrent(), nn.MultiheadAttention(16, 2), Formats()], ids=lambda item: type(item).__name__
)
def test_explain_and_the_lowering_agree(module: nn.Module) -> None:
    """The same nodes stay outside for the same reasons, and the delegates are as many."""
    x = torch.randn(2, 3, 4, 5) if isinstance(module, Formats) else torch.randn(3, 1, 16)
    inputs = (x, x, x) if isinstance(module, nn.MultiheadAttention) else (x,)
    found = explain(torch.export.export(module.eval(), inputs))
    partitioner = ZeropointPartitioner()
    edge = to_edge_transform_and_lower(torch.export.export(module, inputs), partitioner=[partitioner])
    names = [str(node.target) for node in edge.exported_program().graph.nodes if node.op == "call_function"]
    assert {row.node: row.outcome for row in found.left_out} == partitioner.reasons
    assert len({row.partition for row in found.delegated}) == sum("executorch_call_delegate" in name for name in names)
    if isinstance(module, Recurrent):
        assert not found.left_out
        assert {"lstm", "linear"} <= {row.module for row in found.rows}

"""quantize(): which modules, which zero-point dtype, and refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.linear_quant_modules import Int8DynActInt4WeightLinear
from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig
from torchao.quantization.quantize_.workflows.intx.intx_choose_qparams_algorithm import IntxChooseQParamsAlgorithm

from zeropoint import CompileOptions, OptionError, QuantizationWarning, quantization_summary, quantize
from zeropoint.export.matching import match_program
from zeropoint.quantization.recipes import ALGORITHMS
from zeropoint.rules import Lowering, lower_node


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.body = nn.Linear(32, 32)
        self.lm_head = nn.Linear(32, 10, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.lm_head(self.body(self.embed(tokens)))
        return logits


def zero_points_and_kernels(model: nn.Module) -> tuple[set[torch.dtype], list[str]]:
    """And of each linear its kernel and the weight's dtype."""
    program = torch.export.export(model.eval(), (torch.tensor([1, 2]),)).run_decompositions({})
    dtypes = {node.meta["val"][1].dtype for node in program.graph.nodes if "choose_qparams" in str(node.target)}
    lowering = Lowering(program, CompileOptions(operators="linear"))
    for node in match_program(program, lowering.options).lowered:
        lower_node(node, lowering)
    linears = [call for call, _ in lowering.builder.made_calls() if call.kernel.startswith("linear")]
    weights = [next(arg.tensor for arg in call.args if arg.slot == "w") for call in linears]
    dtypes_of = [lowering.builder.tensor_info(tensor).dtype.value for tensor in weights]
    return dtypes, [f"{call.kernel} {dtype}" for call, dtype in zip(linears, dtypes_of, strict=True)]


@pytest.mark.parametrize(
    ("recipe", "zero_point", "kernel"),
    [
        ("8da4w", {torch.int8}, "linear_dq8ca i4"),
        ("8da4w-float-zp", {torch.float32}, "linear_dq8ca i4"),
        ("8da8w", {torch.int8}, "linear_dq8ca i8"),
        ("4w", set(), "linear_qgsw i4"),
        ("8w", set(), "linear_qgsw i8"),
    ],
)
def test_the_table_of_recipes(recipe: str, zero_point: set[torch.dtype], kernel: str) -> None:
    model = quantize(Tiny(), recipe=recipe, group_size=16)
    assert zero_points_and_kernels(model) == (zero_point, [kernel] * 2)
    assert type(model.embed.weight) is nn.Parameter


@pytest.mark.parametrize(("recipe", "dtype"), [("8w", torch.int8), ("4w", torch.int4)])
def test_tables_take_a_recipe_of_their_own(recipe: str, dtype: torch.dtype) -> None:
    """Float otherwise, and where the groups do not fit; a tied linear of as many bits has the same integers."""
    assert not isinstance(quantize(Tiny()).embed.weight, IntxUnpackedToInt8Tensor)
    assert not isinstance(quantize(nn.ModuleList([nn.Embedding(4, 48)]), embedding=recipe)[0].weight,
                          IntxUnpackedToInt8Tensor)  # fmt: skip
    model = quantize(Tiny(), embedding=recipe, lm_head=f"8da{recipe}")
    table, head = model.embed.weight, model.lm_head.weight
    assert table.target_dtype is dtype
    assert table.activation_quantization is None
    assert torch.equal(table.qdata, head.qdata)
    assert torch.equal(table.scale, head.scale)
    tokens = torch.tensor([[1, 9]])
    assert torch.equal(model.embed(tokens), table.dequantize()[tokens])


def test_lm_head_takes_its_own_recipe() -> None:
    model = quantize(Tiny(), recipe="8da4w-float-zp", lm_head="8da8w", algorithm="hqq_scale_only")
    assert isinstance(model.body, Int8DynActInt4WeightLinear)
    assert isinstance(model.lm_head.weight, IntxUnpackedToInt8Tensor)
    assert zero_points_and_kernels(model)[1] == ["linear_dq8ca i4", "linear_dq8ca i8"]


def test_float_zero_point_recipe_has_the_weights_of_the_int8_one() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 8)
    copy = nn.Linear(64, 8)
    copy.load_state_dict(linear.state_dict())
    x = torch.randn(3, 64)
    a = quantize(nn.Sequential(linear), group_size=16, asymmetric_weights=True)
    b = quantize(nn.Sequential(copy), recipe="8da4w-float-zp", group_size=16, asymmetric_weights=True)
    torch.testing.assert_close(a(x), b(x), rtol=1e-6, atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(OptionError, match=r"^quantize: recipe 'int4'; offered 8da4w, 8da4w-float-zp, 8da8w, 4w, 8w$"):
        quantize(Tiny(), recipe="int4")
    with pytest.raises(OptionError, match=r"^quantize: recipe '16w'; offered"):
        quantize(Tiny(), lm_head="16w")
    with pytest.raises(OptionError, match=r"^quantize: embedding '8da4w'; offered 8w, 4w$"):
        quantize(Tiny(), embedding="8da4w")
    with pytest.raises(OptionError, match=r"^quantize: algorithm 'gptq'; offered affine, hqq_scale_only$"):
        quantize(Tiny(), algorithm="gptq")
    with pytest.raises(OptionError, match=r"^quantize: body: 32 inputs, group_size 24; choose a divisor, or None"):
        quantize(Tiny(), group_size=24)
    with pytest.raises(OptionError, match=r"^quantize: body: a group of one input; torchao needs two"):
        quantize(Tiny(), group_size=1)
    with pytest.raises(OptionError, match=r"^quantize: the model: a group of one input"):
        quantize(nn.Linear(1, 3), group_size=None)


@pytest.mark.parametrize("recipe", ["8da4w", "8da4w-float-zp", "4w"])
def test_attention_modules_of_torch(recipe: str) -> None:
    """nn.MultiheadAttention reads its output projection itself: torchao's filter leaves it, and so does quantize."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 5, 32)
    with torch.no_grad():
        wanted = model(x)
        with pytest.warns(QuantizationWarning, match="linear that nn.MultiheadAttention reads itself"):
            quantize(model, recipe=recipe)
        assert 0 < (model(x) - wanted).norm() / wanted.norm() < 0.2
    summary = quantization_summary(model)
    assert sorted(summary.quantized) == [f"layers.{i}.linear{j}.weight" for i in range(2) for j in (1, 2)]
    exported = torch.export.export(model, (x,)).run_decompositions({})
    lowered = match_program(exported, CompileOptions(operators="linear")).lowered
    kernel = "linear_qgsw" if recipe == "4w" else "linear_dq8ca"
    assert [item.kernels[-1] for item in lowered.values()] == [kernel] * 4


class Mixture(nn.Module):
    """Experts in one tensor, which no nn.Linear holds, an odd linear, an embedding, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(10, 32), nn.Conv1d(32, 32, 1)
        self.gate, self.odd = nn.Linear(32, 4), nn.Linear(33, 3)
        self.experts = nn.Parameter(torch.randn(4, 32, 32))


def test_the_summary_says_what_is_left_and_why() -> None:
    model = Mixture()
    with pytest.warns(
        QuantizationWarning, match=r"in float stay 7\d\.\d % no nn\.Linear: a matrix of Mixture.* \(experts\); "
    ):
        quantize(model)
    summary = quantization_summary(model, {"odd": "33 inputs"})
    assert summary.quantized == {"gate.weight": 128}
    assert summary.left["experts"] == (4096, "no nn.Linear: a matrix of Mixture, which multiplies by it itself")
    assert summary.left["conv.weight"] == (1024, "convolution: only linears are quantized")
    assert summary.left["embed.weight"] == (320, "embedding: looked up, not multiplied")
    assert summary.left["odd.weight"] == (99, "33 inputs")
    assert summary.left["gate.bias"] == (4, "vectors: biases, norms and the like")
    assert summary.total == sum(parameter.numel() for parameter in model.parameters())
    lines = str(summary).splitlines()
    assert lines[0] == f"quantized: 1 weights, 128 parameters ({12800 / summary.total:.1f} %)"
    assert lines[1].startswith("in float: 4,096 parameters (7") and lines[1].endswith(": experts")  # noqa: PT018


def test_nothing_is_said_of_embeddings_and_norms(recwarn: pytest.WarningsRecorder) -> None:
    model = quantize(Tiny(), group_size=16)
    assert not [item for item in recwarn if item.category is QuantizationWarning]
    assert quantization_summary(model).left["embed.weight"] == (320, "embedding: looked up, not multiplied")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("group_size", [32, None])
def test_rows_at_a_time_are_what_torchao_makes_of_the_whole(algorithm: str, group_size: int | None) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(2048, 300)
    ours = quantize(copy.deepcopy(linear), group_size=group_size, algorithm=algorithm).weight
    granularity = PerAxis(0) if group_size is None else PerGroup(group_size)
    chosen = IntxChooseQParamsAlgorithm(algorithm)
    config = Int8DynamicActivationIntxWeightConfig(torch.int4, granularity, intx_choose_qparams_algorithm=chosen)
    quantize_(linear, config)
    for name in ("qdata", "scale", "zero_point"):
        assert torch.equal(getattr(ours, name), getattr(linear.weight, name)), name
    for name in ("target_dtype", "block_size", "dtype", "activation_quantization"):
        assert getattr(ours, name) == getattr(linear.weight, name), name

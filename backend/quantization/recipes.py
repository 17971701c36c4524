"""The 8da4w family of recipes, all of torchao: this project has no quantizer of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.linear_quant_modules import Int8DynActInt4WeightLinear
from torchao.quantization.quant_api import (
    Int8DynamicActivationIntxWeightConfig,
    IntxWeightOnlyConfig,
    _is_linear,
)
from torchao.quantization.quant_primitives import MappingType
from torchao.quantization.quantize_.workflows.intx.intx_choose_qparams_algorithm import IntxChooseQParamsAlgorithm

from ..errors import OptionError, QuantizationWarning
from .coverage import quantization_summary

RECIPES = ("8da4w", "8da4w-float-zp", "8da8w", "4w", "8w")
EMBEDDINGS = ("8w", "4w")
ALGORITHMS = ("affine", "hqq_scale_only")
# Elements that torchao gets at once: it passes over them up to a hundred times, ten times faster where they stay in a
# processor's cache. hqq_scale_only ends where no scale of those it has moves by 1e-5.
_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class _Weights:
    """How weights are quantized. group_size None: one group per output channel."""

    bits: int
    group_size: int | None
    algorithm: IntxChooseQParamsAlgorithm
    mapping: MappingType

    @property
    def granularity(self) -> PerGroup | PerAxis:
        return PerAxis(0) if self.group_size is None else PerGroup(self.group_size)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, f"int{self.bits}")  # torch.int4 is not in torch's type stubs
        return dtype

    def alone(self) -> IntxWeightOnlyConfig:
        """Beside float activations."""
        return IntxWeightOnlyConfig(
            weight_dtype=self.dtype,
            granularity=self.granularity,
            mapping_type=self.mapping,
            intx_choose_qparams_algorithm=self.algorithm,
        )

    def beside_int8(self) -> Int8DynamicActivationIntxWeightConfig:
        """Beside int8 activations of a zero point for each token."""
        return Int8DynamicActivationIntxWeightConfig(
            weight_dtype=self.dtype,
            weight_granularity=self.granularity,
            weight_mapping_type=self.mapping,
            intx_choose_qparams_algorithm=self.algorithm,
        )


def quantize(
    model: nn.Module,
    *,
    recipe: str = "8da4w",
    group_size: int | None = 32,
    algorithm: str = "affine",
    asymmetric_weights: bool = False,
    lm_head: str | None = None,
    embedding: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Quantizes the nn.Linears of a model in place, and returns the model. quantization_summary(model) lists the rest.

    As torchao's own filter does, it leaves the output projections of nn.MultiheadAttention, which that module reads
    itself; and linears whose inputs are no multiple of the group size. A QuantizationWarning tells of matrices in float
    other than embeddings.

    | recipe | activations | weights | zero point in the exported graph |
    |---|---|---|---|
    | `8da4w` | int8 per token | int4 per group | int8 |
    | `8da4w-float-zp` | int8 per token | int4 per group | float32 |
    | `8da8w` | int8 per token | int8 per group | int8 |
    | `4w` | not quantized | int4 per group | none |
    | `8w` | not quantized | int8 per group | none |

    `8da4w` is torchao's Int8DynamicActivationIntxWeightConfig (export_llama's `-qmode 8da4w`), `8da4w-float-zp` its
    Int8DynActInt4WeightLinear (pre-quantized and QAT checkpoints), `4w` and `8w` its IntxWeightOnlyConfig.

    group_size: inputs that share a scale; None for one scale per output channel. algorithm: "affine", or
    "hqq_scale_only", which is slower and better. lm_head: a recipe for the module of that name alone. embedding: `8w`
    or `4w` for the nn.Embeddings too, but for those whose width is no multiple of the group size; a table that is tied
    to a linear and gets its integers is stored once in the .pte. progress: is told how many weights are quantized, and
    of how many. Raises OptionError on an unknown recipe or algorithm, or a group size that no linear can have.
    """
    for name in (recipe, *((lm_head,) if lm_head is not None else ())):
        if name not in RECIPES:
            raise OptionError(f"quantize: recipe {name!r}; offered {', '.join(RECIPES)}")
    if embedding not in (None, *EMBEDDINGS):
        raise OptionError(f"quantize: embedding {embedding!r}; offered {', '.join(EMBEDDINGS)}")
    if algorithm not in ALGORITHMS:
        raise OptionError(f"quantize: algorithm {algorithm!r}; offered {', '.join(ALGORITHMS)}")
    linears = {name: module for name, module in model.named_modules() if _is_float_linear(module)}
    refused = _unfit(linears, group_size)
    done = any(_is_linear(module) and not _is_float_linear(module) for module in model.modules())
    if linears and len(refused) == len(linears) and not done:
        name, reason = next(iter(refused.items()))
        raise OptionError(f"quantize: {name or 'the model'}: {reason}")
    linears = {name: module for name, module in linears.items() if name not in refused}
    heads = {
        name: module for name, module in linears.items() if lm_head is not None and name.split(".")[-1] == "lm_head"
    }
    body = {name: module for name, module in linears.items() if name not in heads}
    tables = {name: module for name, module in model.named_modules() if _is_float_table(module, group_size)}
    parts: list[tuple[str | None, Mapping[str, nn.Linear | nn.Embedding]]]
    parts = [(recipe, body), (lm_head, heads), (embedding, tables)]
    n_done, total = 0, sum(len(modules) for chosen, modules in parts if chosen is not None)
    for chosen, modules in parts:
        if chosen is not None:
            weights = _Weights(
                bits=8 if chosen in ("8da8w", "8w") else 4,
                group_size=group_size,
                algorithm=IntxChooseQParamsAlgorithm(algorithm),
                mapping=MappingType.ASYMMETRIC if asymmetric_weights else MappingType.SYMMETRIC,
            )
            for name, module in modules.items():
                _apply(model, name, module, chosen, weights)
                n_done += 1
                if progress is not None:
                    progress(n_done, total)
    surprises = quantization_summary(model, refused).surprises()
    if surprises:
        text = f"quantize: in float stay {surprises}. zeropoint.quantization_summary(model) lists all"
        warnings.warn(text, QuantizationWarning, stacklevel=2)
    return model


def _is_float_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    return _is_linear(module) and not isinstance(module.weight, IntxUnpackedToInt8Tensor)


def _is_float_table(module: nn.Module, group_size: int | None) -> TypeGuard[nn.Embedding]:
    """A table that can have groups of this size; torchao needs two elements in a group."""
    if not isinstance(module, nn.Embedding) or isinstance(module.weight, IntxUnpackedToInt8Tensor):
        return False
    group = module.embedding_dim if group_size is None else group_size
    return group > 1 and module.embedding_dim % group == 0


def _unfit(linears: Mapping[str, nn.Linear], group_size: int | None) -> dict[str, str]:
    """Why linears cannot have groups of this size."""
    found = {name: why_unfit(linear.in_features, group_size) for name, linear in linears.items()}
    return {name: why for name, why in found.items() if why}


def why_unfit(inputs: int, group_size: int | None) -> str:
    """Why a weight of so many inputs cannot have groups of this size; empty where it can."""
    if group_size is not None and (group_size < 1 or inputs % group_size):
        return f"{inputs} inputs, group_size {group_size}; choose a divisor, or None for one group per channel"
    if 1 in (inputs, group_size):  # torchao reduces such a block over the whole weight
        return "a group of one input; torchao needs two; leave this linear out"
    return ""


def _apply(model: nn.Module, name: str, module: nn.Linear | nn.Embedding, recipe: str, weights: _Weights) -> None:
    if recipe != "8da4w-float-zp":
        config = weights.alone() if recipe in ("4w", "8w") else weights.beside_int8()
        module.weight = nn.Parameter(_by_rows(module.weight.detach(), config), requires_grad=False)
        return
    assert isinstance(module, nn.Linear)
    path, _, child = name.rpartition(".")
    parent = model.get_submodule(path)
    setattr(parent, child, _float_zero_point(module, weights))
    if isinstance(parent, nn.TransformerEncoderLayer):
        parent.activation_relu_or_gelu = 0  # or its fast path would multiply by the codes


def _by_rows(
    weight: torch.Tensor, config: Int8DynamicActivationIntxWeightConfig | IntxWeightOnlyConfig
) -> IntxUnpackedToInt8Tensor:
    """What torchao makes of a weight, some rows at a time: no group is in two rows."""
    found: list[torch.Tensor] = []
    for first in range(0, max(1, len(weight)), rows := max(1, _AT_ONCE // max(1, weight.shape[1]))):
        part = nn.Linear(1, 1, bias=False, device="meta")
        part.weight = nn.Parameter(weight[first : first + rows], requires_grad=False)
        quantize_(part, config, filter_fn=lambda module, name: True)
        made = part.weight
        assert isinstance(made, IntxUnpackedToInt8Tensor)
        tensors = [made.qdata, made.scale, made.zero_point]
        found = found or [tensor.new_empty(len(weight), *tensor.shape[1:]) for tensor in tensors]
        for whole, tensor in zip(found, tensors, strict=True):
            whole[first : first + rows] = tensor
        kinds = (made.target_dtype, made.block_size, made.dtype, made.activation_quantization)
    return IntxUnpackedToInt8Tensor(*found, *kinds)


def _float_zero_point(linear: nn.Linear, weights: _Weights) -> Int8DynActInt4WeightLinear:
    """torchao's module whose per-token zero points are float32, with weights that torchao quantized."""
    group_size = linear.in_features if weights.group_size is None else weights.group_size
    packed = _by_rows(linear.weight.detach(), weights.alone())
    made = Int8DynActInt4WeightLinear(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        groupsize=group_size,
        precision=linear.weight.dtype,
    )
    made.weight.copy_(packed.qdata)
    made.scales.copy_(packed.scale)
    made.zeros.copy_(packed.zero_point)
    if linear.bias is not None:
        made.bias.copy_(linear.bias.detach())
    return made

"""Small models of quantized linears in every form that torchao and quantized_decomposed give them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (defines the quantized_decomposed operators)
from torchao.quantization.quant_primitives import (
    MappingType,
    choose_qparams_affine,
    dequantize_affine,
    quantize_affine,
)

per_token = torch.ops.quantized_decomposed


@dataclass(frozen=True, slots=True)
class Activations:
    """How activations are quantized. form: affine, per_token_asymmetric, per_token or none."""

    form: str = "affine"
    zero_point: torch.dtype | None = torch.int8
    mapping: MappingType = MappingType.ASYMMETRIC
    eps: float | None = None
    scale: torch.dtype | None = None

    def __str__(self) -> str:
        zero_point = str(self.zero_point).removeprefix("torch.")
        return f"{self.form}-{self.mapping.name.lower()}-{zero_point}" if self.form == "affine" else self.form

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Quantizes and dequantizes."""
        if self.form == "none":
            return x
        if self.form != "affine":
            choose = per_token.choose_qparams_per_token
            if self.form == "per_token_asymmetric":
                choose = per_token.choose_qparams_per_token_asymmetric
            scale, zero_point = choose(x, torch.int8)
            codes = per_token.quantize_per_token(x, scale, zero_point, -128, 127, torch.int8)
            return per_token.dequantize_per_token(codes, scale, zero_point, -128, 127, torch.int8, x.dtype)
        block = (1,) * (x.dim() - 1) + (x.shape[-1],)
        scale, zero_point = choose_qparams_affine(
            x, self.mapping, block, torch.int8, -128, 127, self.eps, self.scale, self.zero_point
        )
        codes = quantize_affine(x, block, scale, zero_point, torch.int8, -128, 127)
        return dequantize_affine(codes, block, scale, zero_point, torch.int8, -128, 127, output_dtype=x.dtype)


@dataclass(frozen=True, slots=True)
class Weights:
    """How weights are quantized. form: affine, per_group or per_channel (of quantized_decomposed).

    fraction: added to every zero point.
    """

    n: int
    group_size: int
    bits: int = 4
    asymmetric: bool = False
    bias: bool = False
    form: str = "affine"
    zero_point: torch.dtype | None = torch.int8
    fraction: float = 0.0

    def __str__(self) -> str:
        parts = [f"n{self.n}", f"g{self.group_size}", f"{self.bits}bit", self.form]
        return "-".join(parts + ["asym"] * self.asymmetric + ["bias"] * self.bias)


class QuantizedLinear(nn.Module):
    """One linear of K inputs with random codes, scales and zero points."""

    def __init__(self, k: int, weights: Weights, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        half = 2 ** (weights.bits - 1)
        groups = k // weights.group_size

        def integers(*shape: int) -> torch.Tensor:
            return torch.randint(-half, half, shape, generator=generator, dtype=torch.int8)

        shape = (weights.n,) if weights.form == "per_channel" else (weights.n, groups)
        self.weights, self.range = weights, (-half, half - 1)
        self.register_buffer("codes", integers(weights.n, k))
        scales = (torch.rand(shape, generator=generator) + 0.1) / (half * k**0.5)
        self.register_buffer("scales", scales.to(dtype))
        zeros = integers(*shape) // 2 if weights.asymmetric else torch.zeros(shape, dtype=torch.int8)
        zeros = zeros.float() + weights.fraction if weights.fraction else zeros.to(weights.zero_point or torch.int8)
        self.register_buffer("zeros", None if weights.zero_point is None else zeros)
        bias = torch.randn(weights.n, generator=generator).to(dtype) if weights.bias else None
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, (low, high) = self.weights, self.range
        if weights.form == "per_group":
            matrix = per_token.dequantize_per_channel_group(
                self.codes, self.scales, self.zeros, low, high, torch.int8, weights.group_size, x.dtype
            )
        elif weights.form == "per_channel":
            matrix = per_token.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, low, high, torch.int8)
        else:
            block = (1, weights.group_size)
            matrix = dequantize_affine(
                self.codes, block, self.scales, self.zeros, torch.int8, low, high, output_dtype=x.dtype
            )
        return nn.functional.linear(x, matrix, self.bias)


class Linears(nn.Module):
    """Several linears of one quantized activation, as q, k and v are."""

    def __init__(
        self, k: int, activations: Activations, weights: tuple[Weights, ...], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.activations = activations
        self.linears = nn.ModuleList(QuantizedLinear(k, item, dtype, seed) for seed, item in enumerate(weights))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        quantized = self.activations(x)
        return tuple(linear(quantized) for linear in self.linears)


class Forms(nn.Module):
    """The same linear behind differently quantized activations of one input."""

    def __init__(self, k: int, forms: tuple[Activations, ...], weights: Weights) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Linears(k, form, (weights,)) for form in forms)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part(x)[0] for part in self.parts)

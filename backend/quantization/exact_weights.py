"""torchao's tensor of unpacked integers with zero points in float64, which hold a format's minimum exactly.

A weight is scale * code - term. torchao writes it as scale * (code - zero); in float64, zero = term / scale gives the
term back when it is multiplied by scale and rounded to float32. That is what the rules do with it.
"""

from __future__ import annotations

import torch
from torchao.quantization import IntxUnpackedToInt8Tensor

DYNAMIC = "int8_asym_per_token"  # int8 activations per token


class ExactIntxTensor(IntxUnpackedToInt8Tensor):
    """codes int8 [N, K], scale f32 and zero_point f64 [N, K / group]; the rest is torchao's."""

    def __init__(
        self,
        qdata: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor,
        target_dtype: torch.dtype,
        block_size: tuple[int, int],
        dtype: torch.dtype,
        activation_quantization: str | None,
    ) -> None:
        super().__init__(qdata, scale, zero_point.float(), target_dtype, block_size, dtype, activation_quantization)
        self.zero_point = zero_point


def exact_weight(
    codes: torch.Tensor,
    scales: torch.Tensor,
    terms: torch.Tensor | None,
    *,
    zeros: torch.Tensor | None = None,
    bits: int,
    dynamic: bool,
) -> IntxUnpackedToInt8Tensor:
    """A weight of scales * codes - terms, or of scales * (codes - zeros), for a linear of float32.

    codes int8 [N, K]; scales f32 [N, K / group]; terms alike, or None; zeros int8 alike, where there are no terms.
    dynamic: with int8 activations. A group whose scale is 0 but whose term is not gets the scale 1 and the codes 0,
    because no zero point could make its weights.
    """
    group = codes.shape[1] // scales.shape[1]
    options = (getattr(torch, f"int{bits}"), (1, group), torch.float32, DYNAMIC if dynamic else None)
    if terms is None:
        points = torch.zeros_like(scales, dtype=torch.int8) if zeros is None else zeros
        return IntxUnpackedToInt8Tensor(codes, scales, points, *options)
    flat = (scales == 0) & (terms != 0)
    if bool(flat.any()):
        codes = codes.masked_fill(flat.repeat_interleave(group, 1), 0)
        scales = scales.masked_fill(flat, 1.0)
    zeros = torch.where(scales == 0, 0.0, terms.double() / scales.double())
    return ExactIntxTensor(codes, scales, zeros, *options)

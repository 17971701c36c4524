"""Scales of quantized weights rounded to float16: what a .pte then holds in 16 bits instead of 32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor
from torchao.quantization.linear_quant_modules import Int8DynActInt4WeightLinear

_SMALLEST, _LARGEST = 2.0**-14, 65504.0  # normal numbers of float16: a relative error of 2^-11 at most


@dataclass(frozen=True, slots=True)
class HalfScales:
    """What half_weight_scales() did; prints as one line.

    weights: how many it changed or found so. worst: how far a scale moved, relative to it. rms: how far the weights
    did, relative to their norm. left: weight -> why its scales stay in 32 bits.
    """

    weights: int
    worst: float
    rms: float
    left: dict[str, str]

    def __str__(self) -> str:
        text = f"float16 scales: {self.weights} weights, a scale moved by at most {self.worst:.1e} of it, "
        text += f"the weights by {self.rms:.1e} of their norm"
        for why in dict.fromkeys(self.left.values()):
            names = [name for name, reason in self.left.items() if reason == why]
            text += f"; {len(names)} weights keep theirs, {why} ({names[0]}{', ...' if len(names) > 1 else ''})"
        return text


def half_weight_scales(model: nn.Module) -> HalfScales:
    """Rounds the scales of a model's quantized weights to float16, in place. The model then computes with those scales.

    A program takes 2 bytes less for each group: 10 % of a weight of 4 bits in groups of 32. Weights with zero points
    keep their scales, and so do those whose activations have float zero points, or with a scale beyond float16's
    normal numbers.
    """
    worst = moved = total = 0.0
    count, left, seen = 0, dict[str, str](), set[int]()
    for name, codes, scales, zeros in _weights(model):
        if scales.data_ptr() in seen:
            continue
        seen.add(scales.data_ptr())
        size = scales.abs().double()
        if zeros is None:
            left[name] = "as its activations have float zero points"
        elif bool(zeros.any()):
            left[name] = "as it has zero points"
        elif bool(((size < _SMALLEST) & (size > 0) | (size > _LARGEST)).any()):
            left[name] = "as float16 does not hold some"
        else:
            rounded = scales.half().to(scales.dtype)
            energy = codes.reshape(*scales.shape, -1).float().square().sum(-1).double()
            error = (rounded.double() - scales.double()).abs()
            worst = max(worst, float((error / size.clamp_min(_SMALLEST)).max()))
            moved += float((error.square() * energy).sum())
            total += float((size.square() * energy).sum())
            count += 1
            with torch.no_grad():
                scales.copy_(rounded)
    return HalfScales(count, worst, math.sqrt(moved / total) if total else 0.0, left)


def _weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Name, codes [N, K], scales and zero points [N, groups] of every quantized weight; None beside float ones."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, Int8DynActInt4WeightLinear):
            yield f"{prefix}weight", module.weight, module.scales, None
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, IntxUnpackedToInt8Tensor):
                found = parameter.qdata, parameter.scale, parameter.zero_point
                yield f"{prefix}{name}", *found

"""Activations in f64, without the cancellation of torch's own formulas in the left tail."""

from __future__ import annotations

import torch


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x * (1 + erf(x / sqrt(2))) / 2."""
    y: torch.Tensor = 0.5 * x * torch.special.erfc(-x * 0.5**0.5)
    return y


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """x * (1 + tanh(u)) / 2 = x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 * x^3)."""
    return x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))

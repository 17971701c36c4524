"""The one table of tolerances: units of f32 rounding by what a kernel computes, and what storing a result may add."""

from __future__ import annotations

import math

import torch

from zeropoint.references.activations import gelu_tanh

UNIT = 2.0**-24
# What storing a value may add: the last bit (f16 may be rounded towards zero), and flushing to zero below.
STORE_RELATIVE = {torch.float32: 0.0, torch.float16: 2.0**-10}
STORE_ABSOLUTE = {torch.float32: 2.0**-126, torch.float16: 2.0**-24}
# Functions of one or two elements, in units of their result.
FUNCTION_UNITS = 8.0
POWER_UNITS = 12.0
DIVISION_UNITS = 6.0
ROUNDED_ONCE_UNITS = 1.01


def sum_units(length: int) -> float:
    """Units of the sum of the terms' magnitudes, for an f32 sum of `length` terms in any order."""
    return 4.0 + 2.0 * math.sqrt(length)


def gelu_tanh_magnitude(x: torch.Tensor) -> torch.Tensor:
    """|y| times how much a rounded argument of the exponential moves it."""
    x = x.double()
    return (gelu_tanh(x).abs() * (1 + (1.5957691 * (x + 0.044715 * x**3)).abs())).nan_to_num(0.0, 0.0, 0.0)


def check_close(
    actual: torch.Tensor, wanted: torch.Tensor, *, units: float, magnitude: torch.Tensor | None = None, what: str = ""
) -> None:
    """Compares element by element: |actual - wanted| <= units * 2^-24 * magnitude + what storing adds.

    magnitude: |wanted| unless given. Integers, infinities and NaN must be equal; where the wanted value is beyond the
    largest of the dtype, that and infinity are.
    """
    if not actual.dtype.is_floating_point:
        assert torch.equal(actual, wanted.to(actual.dtype)), _worst(what, actual, wanted, (actual != wanted).double())
        return
    stored = wanted.to(actual.dtype)
    special = ~torch.isfinite(stored)
    largest = (
        torch.isfinite(wanted) & (actual.abs() == torch.finfo(actual.dtype).max) & (actual.sign() == wanted.sign())
    )
    same = (actual == stored) | (torch.isnan(actual) & torch.isnan(stored)) | largest
    bad = special & ~same | ~special & ~torch.isfinite(actual)
    assert not bool(bad.any()), _worst(what, actual, wanted, bad.double())
    plain = torch.where(special, 0.0, wanted.double())
    scale = plain.abs() if magnitude is None else torch.where(special, 0.0, magnitude.double())
    bound = units * UNIT * scale + STORE_RELATIVE[actual.dtype] * plain.abs() + STORE_ABSOLUTE[actual.dtype]
    error = torch.where(special, 0.0, (actual.double() - plain).abs())
    assert bool((error <= bound).all()), _worst(what, actual, wanted, error / bound)


def _worst(what: str, actual: torch.Tensor, wanted: torch.Tensor, badness: torch.Tensor) -> str:
    at = int(badness.flatten().argmax())
    found, needed = actual.flatten()[at].item(), wanted.flatten()[at].item()
    return (
        f"{what}: element {at} of {actual.numel()}: {found!r}; wanted {needed!r} "
        f"({float(badness.flatten()[at]):.3g} times the bound; {int((badness > 1).sum())} elements above it)"
    )

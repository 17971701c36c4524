"""What tolerances are made from: units of f32 rounding by what is computed. Not a kernel.

A tolerance is `units * 2^-24 * magnitude` and what storing the result adds. Magnitude is the sum of the sizes of the
terms that were added up, so that cancellation needs no looser one. Integers are exact, except for codes that a rounding
may put on either side of a tie.
"""

from __future__ import annotations

import math

import torch

from . import Result, Tolerance
from .activations import gelu_tanh

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


def in_units(units: float, magnitude: torch.Tensor) -> torch.Tensor:
    """The bound of so many units of a magnitude."""
    return units * UNIT * magnitude.double()


def stored_bound(wanted: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What storing a float adds."""
    return (STORE_RELATIVE[dtype] * wanted.double().abs() + STORE_ABSOLUTE[dtype]).nan_to_num(0.0, 0.0, 0.0)


def rounded(units: float) -> Tolerance:
    """A result that is right within `units` of itself. Integers are equal."""

    def tolerance(result: Result) -> torch.Tensor:
        return in_units(units if result.wanted.is_floating_point() else 0.0, result.wanted.abs())

    return tolerance


exact = rounded(0.0)

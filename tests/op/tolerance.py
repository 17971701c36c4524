"""How op tests compare: element by element in units of f32 rounding, and with the package's own table of tolerances."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zeropoint.references import Attrs, Tensors
from zeropoint.references.bounds import (
    DIVISION_UNITS,
    FUNCTION_UNITS,
    POWER_UNITS,
    ROUNDED_ONCE_UNITS,
    UNIT,
    gelu_tanh_magnitude,
    stored_bound,
    sum_units,
)
from zeropoint.verification.tolerances import error_bound, excess

__all__ = [
    "DIVISION_UNITS",
    "FUNCTION_UNITS",
    "POWER_UNITS",
    "ROUNDED_ONCE_UNITS",
    "check_close",
    "check_table",
    "gelu_tanh_magnitude",
    "sum_units",
]


def check_table(
    kernel: str,
    inputs: Tensors,
    attrs: Attrs,
    wanted: Mapping[str, torch.Tensor],
    actual: Mapping[str, torch.Tensor],
    masks: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Every slot is as `zeropoint.verify` wants it. masks: by slot, the elements that count."""
    for slot, expected in wanted.items():
        bound = error_bound(kernel, slot, inputs, attrs, expected, actual[slot].dtype)
        ratio = excess(actual[slot], expected, bound)
        if masks and slot in masks:
            ratio = ratio[masks[slot]]
        assert not bool((ratio > 1).any()), f"{kernel} {dict(attrs)}: slot {slot}: {float(ratio.max()):.3g} tolerances"


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
    scale = wanted.double().abs() if magnitude is None else magnitude.double()
    bound = (units * UNIT * scale).nan_to_num(0.0, 0.0, 0.0) + stored_bound(wanted, actual.dtype)
    ratio = excess(actual, wanted, bound)
    assert not bool((ratio > 1).any()), _worst(what, actual, wanted, ratio)


def _worst(what: str, actual: torch.Tensor, wanted: torch.Tensor, badness: torch.Tensor) -> str:
    at = int(badness.flatten().argmax())
    found, needed = actual.flatten()[at].item(), wanted.flatten()[at].item()
    return (
        f"{what}: element {at} of {actual.numel()}: {found!r}; wanted {needed!r} "
        f"({float(badness.flatten()[at]):.3g} times the bound; {int((badness > 1).sum())} elements above it)"
    )

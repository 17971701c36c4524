"""One PyTorch reference per kernel, found by the kernel's name. The package build never imports this.

A reference takes what the kernel's slots hold (packed words included) and returns what its output slots must hold.
It is the oracle of the operator tests and of `zeropoint.verify`; `tolerance`, beside it, says how far from it a device
may be.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from ..errors import ZeropointError


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """Shape and dtype an output slot was allocated with."""

    shape: tuple[int, ...]
    dtype: torch.dtype


Tensors = Mapping[str, torch.Tensor]
Attrs = Mapping[str, int | float]
Outputs = Mapping[str, OutputSpec]
Reference = Callable[[Tensors, Attrs, Outputs], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Result:
    """One result of a call: what its slots held before it, its attributes, and what the reference gives in `slot`."""

    kernel: str
    slot: str
    inputs: Tensors
    attrs: Attrs
    wanted: torch.Tensor

    def again(self, changed: Tensors, attrs: Attrs | None = None, *, kernel: str = "", slot: str = "") -> torch.Tensor:
        """What a reference gives for other contents of some slots, in f64; by default the call's own, in its slot."""
        slots = {**self.inputs, **changed}
        specs = {name: OutputSpec(tuple(value.shape), value.dtype) for name, value in slots.items()}
        return find_reference(kernel or self.kernel)(slots, attrs or self.attrs, specs)[slot or self.slot].double()

    def sizes(self, *names: str) -> dict[str, torch.Tensor]:
        """The absolute values of some slots, as far as they are bound."""
        return {name: self.inputs[name].abs() for name in names if name in self.inputs}


Tolerance = Callable[[Result], torch.Tensor]


def find_reference(kernel: str) -> Reference:
    """The reference of a kernel: `reference` in the module of the kernel's name.

    Raises ZeropointError when there is none.
    """
    reference: Reference = _part(kernel, "reference")
    return reference


def find_tolerance(kernel: str) -> Tolerance:
    """How far a kernel's result may lie from its reference: `tolerance` in the same module.

    Raises ZeropointError when there is none.
    """
    tolerance: Tolerance = _part(kernel, "tolerance")
    return tolerance


def find_written(kernel: str) -> Reference | None:
    """For a kernel that writes a part of its outputs: what gives, per output slot, a mask of the elements written.

    None for a kernel that writes every element. Where the mask is false the reference's element means nothing.
    """
    written: Reference | None = getattr(_module(kernel), "written", None)
    return written


def rounds_to_codes(kernel: str) -> bool:
    """Whether a kernel's results are codes of a quantization: `ROUNDS_TO_CODES` in the same module."""
    return getattr(_module(kernel), "ROUNDS_TO_CODES", False)


def _part(kernel: str, name: str) -> Any:
    found = getattr(_module(kernel), name, None)
    if found is None:
        raise ZeropointError(f"references: {kernel} has no {name}; add it to backend/references/{kernel}.py")
    return found


def _module(kernel: str) -> ModuleType:
    try:
        return importlib.import_module(f".{kernel}", __package__)
    except ModuleNotFoundError as error:
        raise ZeropointError(
            f"references: no module for kernel {kernel}; add backend/references/{kernel}.py"
        ) from error

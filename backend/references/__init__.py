"""One PyTorch reference per kernel, found by the kernel's name. The package build never imports this.

A reference takes what the kernel's slots hold (packed words included) and returns what its output slots must hold.
It is the oracle of the operator tests and of `zeropoint.verify`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


def find_reference(kernel: str) -> Reference:
    """The reference of a kernel: `reference` in the module of the kernel's name.

    Raises ZeropointError when there is none.
    """
    try:
        module = importlib.import_module(f".{kernel}", __package__)
    except ModuleNotFoundError as error:
        raise ZeropointError(
            f"references: no module for kernel {kernel}; add backend/references/{kernel}.py"
        ) from error
    reference: Reference = module.reference
    return reference


def find_written(kernel: str) -> Reference | None:
    """For a kernel that writes a part of its outputs: what gives, per output slot, a mask of the elements written.

    None for a kernel that writes every element. Where the mask is false the reference's element means nothing.
    """
    find_reference(kernel)
    written: Reference | None = getattr(importlib.import_module(f".{kernel}", __package__), "written", None)
    return written

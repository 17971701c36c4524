"""Runs one kernel call on the device, and compares what its slots hold with the kernel's reference."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zeropoint.builder import ProgramBuilder
from zeropoint.references import OutputSpec, find_reference
from zeropoint.runtime.player import LoadedProgram, Pick

Attrs = Mapping[str, int | float]
Tensors = Mapping[str, torch.Tensor]
DEVICE_DTYPES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
}


def run_call(
    kernel: str, inputs: Tensors, outputs: Mapping[str, OutputSpec], attrs: Attrs
) -> tuple[dict[str, torch.Tensor], Pick]:
    """Runs one call. A slot in both inputs and outputs is one tensor that the kernel writes in place."""
    b = ProgramBuilder()
    slots: dict[str, int] = {}
    for slot, value in inputs.items():
        slots[slot] = b.tensor(slot, DEVICE_DTYPES[value.dtype], value.shape)
        b.input(slots[slot])
    for slot, spec in outputs.items():
        if slot not in slots:
            slots[slot] = b.tensor(slot, DEVICE_DTYPES[spec.dtype], spec.shape)
    b.call(kernel, slots, attrs)
    for slot in outputs:
        b.output(slots[slot])
    program, constants = b.build()
    with LoadedProgram(program, constants) as loaded:
        results = loaded.execute([value.contiguous().numpy() for value in inputs.values()])
        (pick,) = loaded.picks()
    return {slot: torch.from_numpy(y) for slot, y in zip(outputs, results, strict=True)}, pick


def expected_outputs(
    kernel: str, inputs: Tensors, outputs: Mapping[str, OutputSpec], attrs: Attrs
) -> dict[str, torch.Tensor]:
    """What the kernel's reference gives."""
    return find_reference(kernel)(inputs, attrs, outputs)


def relative_rms(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    """|actual - wanted| / |wanted| in f64, over all elements; NaN unless both are finite."""
    return float((actual.double() - wanted.double()).norm() / wanted.double().norm())

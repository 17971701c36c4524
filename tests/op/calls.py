"""Runs one kernel call on the device, and compares what its slots hold with the kernel's reference."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.op.tolerance import check_table
from zeropoint.kernels.build import build_library
from zeropoint.kernels.cache import default_cache_dir
from zeropoint.program.builder import ProgramBuilder
from zeropoint.references import OutputSpec, find_reference
from zeropoint.runtime.devices import Device, devices
from zeropoint.runtime.player import LoadedProgram, Pick

SHADERS = Path(__file__).parents[2] / "shaders"
Attrs = Mapping[str, int | float]
Tensors = Mapping[str, torch.Tensor]
DEVICE_DTYPES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
}
KINDS = ("discrete", "integrated", "virtual", "cpu")  # of devices, the first preferred


def chosen_device() -> Device:
    """The device that the player takes for ZEROPOINT_DEVICE."""
    wanted = os.environ.get("ZEROPOINT_DEVICE", "").lower()

    def is_meant(device: Device) -> bool:
        if wanted.isdigit():
            return device.index == int(wanted)
        return device.type == "cpu" if wanted == "cpu" else wanted in device.name.lower()

    found = [device for device in devices() if device.type in KINDS and not device.unusable and is_meant(device)]
    return min(found, key=lambda device: KINDS.index(device.type))


def is_software() -> bool:
    """Whether the device that runs now is the processor, whatever ZEROPOINT_DISABLE says."""
    return chosen_device().type == "cpu"


def device_facts() -> Mapping[str, int]:
    """Of the device that runs now, after ZEROPOINT_DISABLE and ZEROPOINT_LIMITS."""
    return chosen_device().facts


def lanes_are_a_vector() -> bool:
    """Whether algorithms for software devices run, whose subgroup of eight is one vector of the processor."""
    facts = device_facts()
    return bool(facts["is_cpu"] and facts["subgroup_size"] == 8 and facts["subgroup_ballot"])


def has_subgroups() -> bool:
    """Whether the device reduces rows by subgroups: kernels of quantized rows have algorithms that do."""
    facts = device_facts()
    return bool(facts["subgroup_arithmetic"] and facts["subgroup_shuffle"] and facts["subgroup_size"] >= 8)


MATRICES = "coopmat_f16_16x16x16"  # the fact of the product of cooperative matrices that kernels use
# The same on plain arrays, for devices that have none.
EMULATED_MATRICES = {"lib/coopmat.glsl": (Path(__file__).parent / "shaders" / "coopmat.glsl").read_text()}


def takes_matrices() -> bool:
    """Whether the device has the product, by subgroups of the size that the shaders are written for."""
    facts = device_facts()
    return bool(facts[MATRICES] and facts["subgroup_size"] == 32)


def run_call(
    kernel: str,
    inputs: Tensors,
    outputs: Mapping[str, OutputSpec],
    attrs: Attrs,
    *,
    library: bytes | None = None,
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
    with LoadedProgram(program, constants, library=library) as loaded:
        results = loaded.execute([value.contiguous().numpy() for value in inputs.values()])
        (pick,) = loaded.picks()
    return {slot: torch.from_numpy(y) for slot, y in zip(outputs, results, strict=True)}, pick


def expected_outputs(
    kernel: str, inputs: Tensors, outputs: Mapping[str, OutputSpec], attrs: Attrs
) -> dict[str, torch.Tensor]:
    """What the kernel's reference gives."""
    return find_reference(kernel)(inputs, attrs, outputs)


def checked_call(
    kernel: str, inputs: Tensors, outputs: Mapping[str, OutputSpec], attrs: Attrs
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Runs one call; what its output slots hold and what the reference gives, which agree as `verify` wants it."""
    actual, _ = run_call(kernel, inputs, outputs, attrs)
    wanted = expected_outputs(kernel, inputs, outputs, attrs)
    check_table(kernel, {**actual, **inputs}, attrs, wanted, actual)
    return actual, wanted


def relative_rms(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    """|actual - wanted| / |wanted| in f64, over all elements; NaN unless both are finite."""
    return float((actual.double() - wanted.double()).norm() / wanted.double().norm())


def fitting_views(manifest: str) -> str:
    """The text of a manifest whose slots were narrowed, without the views of what they no longer have."""
    lines = []
    for line in manifest.splitlines():
        if found := re.search(r", view = \{ (.*?) \}", line):
            dtypes = re.findall(r"\w+", line[line.index("dtype = [") : line.index("], storage")])
            kept = [item for item in found[1].split(", ") if item.split(" = ")[0] in dtypes and '"buffer"' in line]
            line = line.replace(found[0], f", view = {{ {', '.join(kept)} }}" if kept else "")
        lines.append(line)
    return "\n".join(lines) + "\n"


def mutated_library(kernel: str, source: str, old: str, new: str) -> bytes:
    """A kernel library of one kernel, only its f32 variants, with `old` in a shader file replaced by `new`.

    Algorithms that do not read the file come from the cache of the true shaders.
    """
    manifest = (SHADERS / f"{kernel}.toml").read_text()
    text = (SHADERS / source).read_text()
    assert text.count(old) == 1, f"{source}: {old!r} occurs {text.count(old)} times"
    return library_of({kernel: fitting_views(manifest.replace(', "f16"', ""))}, {source: text.replace(old, new)})


def library_of(manifests: Mapping[str, str], sources: Mapping[str, str]) -> bytes:
    """A kernel library of these manifests, by kernel, with the texts of some shader files, by path, replaced."""
    with tempfile.TemporaryDirectory() as folder:
        shaders = Path(folder) / "shaders"
        shutil.copytree(SHADERS, shaders, ignore=lambda _, names: [name for name in names if name.endswith(".toml")])
        for kernel, text in manifests.items():
            (shaders / f"{kernel}.toml").write_text(text)
        for source, text in sources.items():
            (shaders / source).write_text(text)
        return build_library(shaders, cache_dir=default_cache_dir(SHADERS))

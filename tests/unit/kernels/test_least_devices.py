"""Every kernel has an algorithm for a device with no more than Vulkan 1.1 demands, whatever the dtypes of its tensors.

But for float16, which needs storage of 16 bits, and for fused kernels, whose plain calls run there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropoint.runtime.player import kernel_library
from zeropoint.serialization._generated import common_generated as common
from zeropoint.serialization._generated import library_generated as fb

LINES = (Path(__file__).parents[2] / "vulkan_1_1.limits").read_text().splitlines()
LIMITS = {name: int(value) for name, value in (line.split(" = ") for line in LINES)}
CAPABILITIES = {1, 50}  # Shader and ImageQuery, which every device has
IN_WORDS = {"zp", "scale", "w_scale"}  # slots whose halves are read as words
FUSED = {"row_linear", "rotary_attention"}  # programs have the calls that they stand for, too
LIBRARY = fb.Library.GetRootAs(kernel_library())
KERNELS = [LIBRARY.Kernels(i) for i in range(LIBRARY.KernelsLength())]


def lacking(algorithm: fb.Algorithm, variant: fb.Variant) -> Iterator[str]:
    """What the device must have more of for a variant, or beyond."""
    capabilities = {variant.Capabilities(i) for i in range(variant.CapabilitiesLength())}
    yield from (f"capability {item}" for item in sorted(capabilities - CAPABILITIES))
    bound = [variant.Bindings(i).Slot() for i in range(variant.BindingsLength())]
    images = sum(variant.Storages(slot) == common.Storage.image for slot in bound)
    x, y, z = (algorithm.LocalSize(i) for i in range(3))
    needs = {
        "max_workgroup_size_x": x,
        "max_workgroup_size_y": y,
        "max_workgroup_size_z": z,
        "max_workgroup_invocations": x * y * z,
        "shared_memory_bytes": variant.SharedBytes(),
        "max_push_bytes": variant.PushBytes(),
        "max_stage_images": images,
        "max_stage_buffers": len(bound) - images,
    }
    yield from (name for name, found in needs.items() if found > LIMITS[name])


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.Name().decode())
def test_an_algorithm_for_the_least_device(kernel: fb.Kernel) -> None:
    found: dict[frozenset[str], list[list[str]]] = {}
    slots = [kernel.Slots(i).Name().decode() for i in range(kernel.SlotsLength())]
    for algorithm in (kernel.Algorithms(i) for i in range(kernel.AlgorithmsLength())):
        for variant in (algorithm.Variants(i) for i in range(algorithm.VariantsLength())):
            key = frozenset(f"{slot} {variant.Dtypes(i)} {variant.Storages(i)}" for i, slot in enumerate(slots))
            found.setdefault(key, []).append(list(lacking(algorithm, variant)))
    in_words = {f"{slot} {common.DType.f16} {common.Storage.buffer}" for slot in slots if slot in IN_WORDS}
    halves = {f"{slot} {common.DType.f16} {common.Storage.buffer}" for slot in slots} - in_words
    of_floats = {key: lacks for key, lacks in found.items() if not key & halves}
    assert of_floats
    refused = {key: lacks for key, lacks in of_floats.items() if all(lacks)}
    assert refused == (of_floats if kernel.Name().decode() in FUSED else {})

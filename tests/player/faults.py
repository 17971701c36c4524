"""What test_faults.py runs in a process of its own, behind faulty_loader.c: every Vulkan call fails once, by itself.

First among those of a whole run, then among those of the first shape of a program that stays loaded. Prints one JSON
object: of each function its numbers of calls, what was right all the same, and what went wrong.
"""

from __future__ import annotations

import itertools
import json
import os

import numpy as np

from tests.player.faulty import loader
from zeropoint.errors import RuntimeFailure
from zeropoint.program import Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.player import LoadedProgram, counters

OUT_OF_MEMORY, LOST = -2, -4
NAMES = {OUT_OF_MEMORY: "VK_ERROR_OUT_OF_DEVICE_MEMORY", LOST: "VK_ERROR_DEVICE_LOST"}
# Without a pipeline cache, or without what a device offers beyond Vulkan 1.1, a run goes on and is right.
DISPENSABLE = {"vkCreatePipelineCache", "vkGetPipelineCacheData", "vkEnumerateDeviceExtensionProperties"}
FUNCTIONS = [
    *("vkCreateDevice", "vkCreateCommandPool", "vkCreateFence", "vkCreateBuffer", "vkAllocateMemory", "vkMapMemory"),
    *("vkBindBufferMemory", "vkCreateImage", "vkBindImageMemory", "vkCreateImageView", "vkCreateDescriptorSetLayout"),
    *("vkCreatePipelineLayout", "vkCreateShaderModule", "vkCreateComputePipelines", "vkCreateDescriptorPool"),
    *("vkAllocateDescriptorSets", "vkAllocateCommandBuffers", "vkBeginCommandBuffer", "vkEndCommandBuffer"),
    *("vkCreateQueryPool", "vkQueueSubmit", "vkWaitForFences", "vkResetFences", "vkGetQueryPoolResults"),
    *DISPENSABLE,
]
# What is made, by what it is given back.
PAIRS = {
    "vkCreateDevice": "vkDestroyDevice",
    "vkCreateCommandPool": "vkDestroyCommandPool",
    "vkCreateFence": "vkDestroyFence",
    "vkAllocateCommandBuffers": "vkFreeCommandBuffers",
    "vkCreateShaderModule": "vkDestroyShaderModule",
}
# After these fail nobody knows what the device has done.
LOSING = ("vkQueueSubmit", "vkWaitForFences", "vkResetFences")
x = np.random.default_rng(0).standard_normal((7, 64), np.float32)


def program() -> Program:
    """A constant, images, a state and two dependent calls."""
    b = ProgramBuilder()
    rows = b.symbol("rows", 1, 40)
    given = b.tensor("x", "f32", [rows, 64])
    scale = b.tensor("scale", "f32", [rows], storage="image")
    zero = b.tensor("zp", "i8", [rows], storage="image")
    q = b.tensor("q", "i8", [rows, 64])
    factor = b.constant("factor", "f32", [64], data=np.arange(64, dtype=np.float32))
    cache = b.state("cache", "f32", [8, 64])
    normed = b.tensor("normed", "f32", [rows, 64])
    b.input(given)
    row = {"row_length": 64, "x_offset": 0, "x_inner_rows": 2**30, "x_outer_stride": 0, "x_inner_stride": 64}
    b.call("rms_norm", {"x": given, "weight": factor, "y": normed}, {"eps": 1e-5, "weight_offset": 0.0, **row})
    limits = {"qmin": -128, "qmax": 127}
    b.call("choose_qparams_per_row", {"x": normed, "scale": scale, "zp": zero}, {"mapping": 0, **limits, "eps": 1e-7})
    packing = {"rounding": 0, **limits, "group_size": 32, "group_padded": 32, "step": 32}
    b.call("quantize_and_pack", {"x": normed, "scale": scale, "zp": zero, "q": q}, packing)
    one_row = {"size0": 1, "size1": 1, "size2": 1, "size3": 64, "x_offset": 0, "y_offset": 0}
    dense = {f"{slot}_stride{axis}": int(axis == 3) for slot in "xy" for axis in range(4)}
    b.call("strided_copy", {"x": normed, "y": cache}, {**one_row, **dense})
    b.output(q)
    return b.build()


def run(made: tuple[Program, dict[str, bytes]], device: int) -> np.ndarray:
    """Loads, executes and unloads on a device that is opened for this number, unless it was before."""
    os.environ["ZEROPOINT_DISABLE"] = f"max_push_bytes={10_000 + device}"  # no limit: another context
    with LoadedProgram(*made, profile=True) as loaded:
        return np.concatenate([loaded.execute([x])[0], loaded.execute([x[:3]])[0]])


def calls() -> dict[str, int]:
    return {name: loader.zp_calls(name.encode()) for name in {*FUNCTIONS, *PAIRS.values()}}


def alive(since: dict[str, int], failed: str) -> dict[str, int]:
    """What was made since then and not given back."""
    now = calls()
    made = {name: now[name] - since[name] - (name == failed) for name in PAIRS}
    return {name: made[name] - (now[end] - since[end]) for name, end in PAIRS.items()}


def results_of(name: str) -> tuple[int, ...]:
    return (OUT_OF_MEMORY, LOST) if name in ("vkQueueSubmit", "vkWaitForFences") else (OUT_OF_MEMORY,)


def whole_runs(made: tuple[Program, dict[str, bytes]], without: list[str]) -> tuple[dict[str, int], list[str]]:
    """Calls of opening a device, loading, executing twice and unloading. What is made is given back."""
    run(made, 0)
    before = calls()
    wanted = run(made, 1)
    counts = {name: count - before[name] for name, count in calls().items() if name in FUNCTIONS}
    kept = alive(before, "")
    memory = {name: counters()[name] for name in ("programs", "device_allocations", "device_bytes")}
    wrong, device = list[str](), 1
    for name in FUNCTIONS:
        for call, result in itertools.product(range(1, counts[name] + 1), results_of(name)):
            device, what, since = device + 1, f"{name} {call}", calls()
            loader.zp_arm(name.encode(), call, result)
            try:
                right = np.array_equal(run(made, device), wanted)
                (without if right else wrong).append(f"{what}: no error")
            except RuntimeFailure as error:
                if f"{name}: {NAMES[result]}" not in str(error):
                    wrong.append(f"{what}: {error}")
            loader.zp_disarm()
            if not np.array_equal(run(made, device), wanted):
                wrong.append(f"{what}: another result afterwards")
            now = {key: counters()[key] for key in memory}
            if now != memory:
                wrong.append(f"{what}: {memory} before, {now} after")
                memory = now
            lost = name in LOSING  # and its device is kept
            for key, count in alive(since, name).items():
                if count > kept[key] + (lost and kept[key] > 0):  # fewer: what was never made is given back, too
                    wrong.append(f"{what}: {key}: {count} alive, {kept[key]} expected")
    return counts, wrong


def new_shape(
    made: tuple[Program, dict[str, bytes]], device: int, name: str, call: int, result: int
) -> tuple[bool, list[str]]:
    """What a loaded program says whose first shape fails, if it has that call, and then it and another one."""
    wanted = run(made, 0)[:7]
    os.environ["ZEROPOINT_DISABLE"] = f"max_push_bytes={10_000 + device}"
    said, awaits = list[str](), False
    with LoadedProgram(*made, profile=True) as loaded, LoadedProgram(*made) as other:
        if name:
            loader.zp_arm(name.encode(), call, result)
        for program, rows in ((loaded, 3), (loaded, 3), (loaded, 7), (other, 3), (other, 7)):
            try:
                right = np.array_equal(program.execute([x[:rows]])[0], wanted[:rows])
                said.append("right" if right else "wrong")
            except RuntimeFailure as error:
                said.append(str(error))
            awaits = awaits or (name != "" and bool(loader.zp_awaits(name.encode())))
            loader.zp_disarm()
    return awaits, said


def new_shapes(made: tuple[Program, dict[str, bytes]], without: list[str]) -> tuple[dict[str, int], list[str]]:
    """Calls of a shape that is recorded and run for the first time. Its program goes on where the device does."""
    assert new_shape(made, 10_000, "", 0, 0) == (False, ["right"] * 5)
    wrong, counts = list[str](), dict[str, int]()
    devices = itertools.count(10_001)
    for name, result in [(function, result) for function in FUNCTIONS for result in results_of(function)]:
        for call in itertools.count(1):
            awaits, (first, *after) = new_shape(made, next(devices), name, call, result)
            if awaits:
                break  # no such call
            counts[name] = counts.get(name, 0) + 1
            if first == "right":
                without.append(f"{name} {call} of a new shape: no error")
            elif f"{name}: {NAMES[result]}" not in first:
                wrong.append(f"{name} {call} of a new shape: {first}")
            lost = "the device was lost by an earlier call; load the program again"
            if after != [lost if name in LOSING else "right"] * 4:
                wrong.append(f"{name} {call} of a new shape: {after}")
    return counts, wrong


def main() -> None:
    made, without = program(), list[str]()
    counts, wrong = whole_runs(made, without)
    of_a_shape, also_wrong = new_shapes(made, without)
    without = [what for what in without if what.split()[0] not in DISPENSABLE]
    print(json.dumps({"calls": counts, "of_a_shape": of_a_shape, "without": without, "wrong": wrong + also_wrong}))


if __name__ == "__main__":
    main()

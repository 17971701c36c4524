"""Runs chains of dispatches that take turns, in a process of its own: without validation layers, which see no turns.

    python -m tests.player.turns CHAIN HOW      # CHAIN: a letter a call, below
    python -m tests.player.turns row_linear     # or rotary_attention: two calls of the kernel, of the package's library

HOW: mute (no turn is given), mute later (after a chain whose turns are), profile, shared (with a shorter chain, before
and after), or nothing.
Prints a line of JSON: each run's output, barriers and dispatches recorded, and what the run was refused with.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.signatures import signature
from tests.unit.kernels.tiny import write_tree
from zeropoint.errors import RuntimeFailure
from zeropoint.kernels.build import build_library
from zeropoint.program import Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.player import LoadedProgram, counters

SHADERS = Path(__file__).parents[2] / "shaders"
N = 20_000  # elements: many workgroups
MANIFEST = """
doc = "y = 2 * x + b"
[slots]
x = { io = "in", dtype = ["f32"], storage = ["buffer"] }
b = { io = "in", dtype = ["f32"], storage = ["buffer"] }
y = { io = "out", dtype = ["f32"], storage = ["buffer"] }
[[algorithm]]
name = "only"
grid = ["ceil_div(numel(x), 64)", "1", "1"]
push = { n = "numel(x)" }
"""
SHADER = """#version 450
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 64) in;
layout(push_constant) uniform Push { uint n; TURNS };
layout(std430, binding = X_BINDING) coherent readonly buffer X { X_TYPE x[]; };
layout(std430, binding = B_BINDING) readonly buffer B { B_TYPE b[]; };
layout(std430, binding = Y_BINDING) coherent writeonly buffer Y { Y_TYPE y[]; };
#include "turns.glsl"
void main() {
  uint i = gl_GlobalInvocationID.x;
  float own = b[min(i, n - 1u)];
  await_turn();
  if (i < n) y[i] = 2.0 * x[i] + own;
  give_turn();
}
"""
NO_TURNS = "void await_turn() {}\nvoid give_turn() {}\n"


def shaders(folder: Path, *, mute: bool) -> Path:
    """Kernel `step` takes turns and reads b ahead of its own, `plain` does not; mute: no turn is ever given."""
    turns = (SHADERS / "lib" / "turns.glsl").read_text()
    given = "  if (gl_LocalInvocationIndex == 0u) atomicAdd"
    assert turns.count(given) == 1
    step = MANIFEST.replace('name = "only"', 'name = "only"\nahead = ["b"]\niterations = "1"')
    write_tree(folder, name="step", manifest=step, shader=SHADER.replace("TURNS", "uint turn; uint awaited;"))
    plain = SHADER.replace("TURNS", "").replace('#include "turns.glsl"\n', NO_TURNS)
    write_tree(folder, name="plain", manifest=MANIFEST, shader=plain)
    silenced = turns.replace(given, "  if (gl_LocalInvocationIndex == 64u) atomicAdd")
    (folder / "lib" / "turns.glsl").write_text(silenced if mute else turns)
    return folder


def chain(letters: str) -> Program:
    """s: a step that reads the last result as x. b: one that reads it as b, ahead of its turn. p: a plain call."""
    builder = ProgramBuilder(signature("step", "x b", "y") | signature("plain", "x b", "y"))
    x, b = builder.tensor("x", "f32", [N]), builder.tensor("b", "f32", [N])
    builder.input(x)
    builder.input(b)
    last = x
    for i, letter in enumerate(letters):
        y = builder.tensor(f"y{i}", "f32", [N])
        slots = {"x": x, "b": last} if letter == "b" else {"x": last, "b": b}
        builder.call("plain" if letter == "p" else "step", {**slots, "y": y})
        last = y
    builder.output(last)
    return builder.build()[0]


def two_attentions() -> tuple[Program, list[np.ndarray]]:
    """The second one's queries are the first one's result; the caches are their own, what workgroups leave is not."""
    from tests.op.calls import DEVICE_DTYPES  # with torch, which chains do without
    from tests.op.rotary_attention_cases import Case

    case, b = Case(merged=False, y_layout=0, splits=2, keys=200, places=(150,)), ProgramBuilder()
    inputs = case.inputs()
    caches = {f"{slot}{i}": inputs[slot] for i in range(2) for slot in ("k_cache", "v_cache")}
    given = {slot: value for slot, value in inputs.items() if slot not in ("k_cache", "v_cache")} | caches
    tensors = {name: b.tensor(name, DEVICE_DTYPES[value.dtype], value.shape) for name, value in given.items()}
    for tensor in tensors.values():
        b.input(tensor)
    last = tensors["q"]
    for i in range(2):
        y = b.tensor(f"y{i}", "f32", case.y_shape)
        own = {"q": last, "k_cache": tensors[f"k_cache{i}"], "v_cache": tensors[f"v_cache{i}"], "y": y}
        b.call("rotary_attention", {slot: tensors.get(slot, -1) for slot in inputs} | own, case.attrs())
        last = y
    for tensor in (last, *(tensors[name] for name in caches)):
        b.output(tensor)
    return b.build()[0], [value.contiguous().numpy() for value in given.values()]


def run(program: Program, inputs: Sequence[np.ndarray], **given: Any) -> None:
    before, said, outputs = counters(), list[str](), list[list[float]]()
    with LoadedProgram(program, **given) as loaded:
        for _ in range(3):
            try:
                outputs.append(loaded.execute(inputs)[0].ravel()[:: max(1, N // 100)].tolist())
            except RuntimeFailure as error:
                said.append(str(error))
    after = counters()
    found = {name: after[name] - before[name] for name in ("barriers_recorded", "dispatches_recorded")}
    print(json.dumps({"outputs": outputs, "errors": said, **found}))


def built(*, mute: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return build_library(shaders(Path(folder) / "shaders", mute=mute), cache_dir=Path(folder) / "cache")


def main(what: str, how: str = "") -> None:
    if what == "row_linear":
        from tests.op.blocks import Block
        from tests.op.chain import Chain

        block = Block(Chain(k=96, n=64, group_size=32), "norm", "gated")
        program, constants = block.build("all")
        run(program, [np.linspace(-1, 1, 96, dtype=np.float32)[None]], constants=constants)
        return
    if what == "rotary_attention":
        run(*two_attentions())
        return
    library, first = (built(mute=mute) for mute in (how.startswith("mute"), how == "mute"))
    inputs = [np.arange(N, dtype=np.float32) / N, np.full(N, 0.5, np.float32)]
    with LoadedProgram(chain("ss"), library=first) as shorter:  # so that the counts of turns grow, and are shared
        if how in ("shared", "mute later"):
            shorter.execute(inputs)
        run(chain(what), inputs, library=library, profile=how == "profile")
        if how == "shared":
            run(chain("ss"), inputs, library=library)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""No kernel reads or writes outside a tensor that it binds: GPU-assisted validation reports each such access.

A software device drops them, so that no other test sees one. The layers that report them are tests/newer_layers.py's.
What a tensor is rounded up by, to 16 bytes, is part of it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import newer_layers

REPO = Path(__file__).parents[2]
WRITE = "y[i] = Y_TYPE(apply(float(x[i])));"
# Of elementwise_unary.comp: one element too far.
MUTANTS = {
    "write": "y[i + 1u] = Y_TYPE(apply(float(x[i])));",
    "read": "y[i] = Y_TYPE(apply(float(x[i + 1u])));",
    "a read that changes nothing": "y[i] = Y_TYPE(apply(float(x[i])) + 0.0 * float(x[i + 1u]));",
}
# On a busy machine the layers lose what they see of a submit, one of thirty: a shader runs until they say something.
OVERRUN = """
import json, sys, time
import torch
from tests.op.calls import mutated_library, run_call
from zeropoint.references import OutputSpec
from zeropoint.runtime.player import validation
write, mutants = json.loads(sys.argv[1])
found = {}
for name, mutant in mutants.items():
    library = mutated_library("elementwise_unary", "elementwise_unary.comp", write, mutant)
    outputs, attrs = {"y": OutputSpec((64,), torch.float32)}, {"op": 0, "alpha": 0.0, "beta": 0.0}
    for _ in range(20 if name != "none" else 1):
        run_call("elementwise_unary", {"x": torch.ones(64)}, outputs, attrs, library=library)
        time.sleep(0.5)
        found[name] = list(validation(clear=True).messages)
        if found[name]:
            break
print(json.dumps(found), flush=True)
"""
# What is given indices outside, and what moves or pads.
SOME = (
    *("test_copies.py::test_pad_of_a_view", "test_elementwise.py::test_broadcast_and_strided_operands"),
    *("test_indexing.py::test_index_outside", "test_indexing.py::test_scatter_along_every_axis"),
    "test_indexing.py::test_an_id_outside_has_the_nearest_row",
    "test_rotary_and_cache.py::test_positions_outside_the_cache_are_not_written",
    "test_rotary_and_cache.py::test_a_position_outside_the_tables_has_the_nearest_row",
)
# Of every family more, nightly. llvmpipe takes minutes for each of the linears' and attention's other variants.
MORE = (
    *("test_rows.py", "test_matmul.py::test_batches", "test_matmul.py::test_few_rows"),
    *("test_matmul.py::test_gated_activation", "test_copies.py::test_views", "test_elementwise.py::test_unary_shapes"),
    *("test_indexing.py::test_gather", "test_indexing.py::test_embedding", "test_indexing.py::test_cache_write"),
    *("test_indexing.py::test_check_index", "test_rotary_attention.py::test_a_position_outside_the_cache"),
    "test_attention.py::test_splits[cpu-queries.1-keys.200-start.63-4]",
    "test_quantized_linear.py::test_every_row_count[3]",
    "test_fused_rows.py::test_one_row[none-False-True-f32-4-dot]",
)
NOT = "not fold and not every_half"  # shaders that run for minutes where each access is checked


@pytest.fixture(autouse=True)
def no_validation_message() -> None:
    """The device is another process's: this one has no messages to look at."""


def run(*arguments: str) -> str:
    """What a process prints in which every access is checked."""
    done = subprocess.run(
        [*newer_layers.python(), *arguments],
        cwd=REPO,
        env={**newer_layers.environment(), **newer_layers.ACCESSES},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_one_element_too_far_is_reported() -> None:
    output = run("-c", OVERRUN, json.dumps([WRITE, {"none": WRITE, **MUTANTS}]))
    found = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    assert found.pop("none") == []
    assert found.keys() == MUTANTS.keys()
    for messages in found.values():
        assert any("access out of bounds" in message and "256 bytes were bound" in message for message in messages)


def passed(*arguments: str) -> int:
    """How many operator tests pass, with no message, where all do."""
    output = run("-m", "pytest", "-q", "-p", "tests.newer_layers", "-p", "no:cacheprovider", *arguments)
    last = output.strip().splitlines()[-1]
    assert " passed" in last, output[-4000:]
    assert "failed" not in last, output[-4000:]
    return int(last.split(" passed")[0].split()[-1])


def test_some_operator_tests() -> None:
    assert passed(*(f"tests/op/{name}" for name in SOME)) >= len(SOME)


@pytest.mark.slow
def test_more_operator_tests() -> None:
    assert passed(*(f"tests/op/{name}" for name in MORE), "-m", "not slow", "-k", NOT) > 200

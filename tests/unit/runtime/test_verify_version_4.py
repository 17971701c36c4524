"""What Program version 4 added, contradicted: checks of indices, and the tensor of faults. No device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flatbuffers
import pytest

from tests.unit.runtime.test_verify import put
from zeropoint.errors import ProgramError, RuntimeFailure
from zeropoint.program import Check, Dim, Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.program.io import read_program, write_program
from zeropoint.program.text import program_text
from zeropoint.runtime.player import verify_blob
from zeropoint.serialization._generated import program_generated as fb

IDS, COPY, FAULTS, X, Y = range(5)
DENSE = {"size0": 1, "size1": 1, "size2": 1, "x_offset": 0, **{f"x_stride{axis}": int(axis == 3) for axis in range(4)}}


def program() -> Program:
    """ids [n] within 0 to 8 - n go through a call that may fault; x [4] has nothing to do with them."""
    b = ProgramBuilder()
    n = b.symbol("n", 1, 4)
    ids, copy = b.tensor("ids", "i32", [n]), b.tensor("copy", "i32", [n])
    faults = b.faults()
    x, y = b.tensor("x", "f32", [4]), b.tensor("y", "f32", [4])
    b.input(ids, "i64")
    b.input(x)
    b.check(0, Dim(8, ((-1, 0),)), "places of k", tensor=ids, sizes=[n], strides=[1])
    bounds = {"low": 0, "high": 7, "wrap": 0, "outside": -1, "call": 9}
    b.call("check_index", {"x": ids, "y": copy, "faults": faults}, {**DENSE, "size3": n, **bounds})
    b.call("elementwise_unary", {"x": x, "y": y}, {"op": 0, "alpha": 0.0, "beta": 0.0})
    b.output(copy)
    b.output(y)
    return b.build()[0]


def changed(change: Callable[[Any], object]) -> bytes:
    """The Program's bytes with a change that the writer would not let through."""
    root = fb.ProgramT.InitFromObj(fb.Program.GetRootAs(write_program(program())))
    change(root)
    builder = flatbuffers.Builder(1024)
    builder.Finish(root.Pack(builder), b"ZPP1")
    return bytes(builder.Output())


FAULTS_TEXT = "faults: tensor copy; need i32 [5], no alias and no input"
CASES: list[tuple[Callable[[Any], object], str]] = [
    (put("checks[0].input", 2), "check[0]: input 2; need one of integers, below 2"),
    (put("checks[0].input", 1), "check[0]: input 1; need one of integers, below 2"),
    (put("checks[0].min", None), "check[0]: no min, max or offset"),
    (put("checks[0].max", None), "check[0]: no min, max or offset"),
    (put("checks[0].offset", None), "check[0]: no min, max or offset"),
    (put("checks[0].min.base", -(2**31)), "check[0]: leaves 32 bits for some symbol values"),
    (put("checks[0].max.terms[0].symbol", 1), "check[0]: symbol 1; the program has 1"),
    (put("checks[0].sizes[0].base", -2), "check[0]: leaves 32 bits for some symbol values"),
    (put("checks[0].strides[0].base", 2**31), "check[0]: leaves 32 bits for some symbol values"),
    (put("checks[0].strides", []), "check[0]: need as many sizes as strides"),
    (lambda r: (r.checks[0].sizes.extend(r.checks[0].sizes * 8), r.checks[0].strides.extend(r.checks[0].strides * 8)),
     "check[0]: 9 dimensions; at most 8"),
    (put("faults", 5), "faults: tensor 5; the program has 5"),
    (put("faults", X), "faults: tensor x: dtype f32 for host dtype i32"),
    (put("faults", COPY), FAULTS_TEXT),
    (put("faults", IDS), "faults: tensor ids; need i32 [5], no alias and no input"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "text"), CASES, ids=[text[:60] for _, text in CASES])
def test_refused_in_one_line(change: Callable[[Any], object], text: str) -> None:
    verify_blob(changed(lambda root: None))
    with pytest.raises(RuntimeFailure) as refused:
        verify_blob(changed(change))
    assert str(refused.value) == f"program: {text}"


def test_bytes_and_text() -> None:
    made = program()
    assert read_program(write_program(made)) == made
    assert made.calls[0].attrs[-1].value == 0, "a call reports its own index"
    lines = program_text(made).splitlines()
    assert "  input 0: elements 0 + [n] * [1] in [0, -n+8]: places of k" in lines
    assert lines[-1] == "faults: %faults"


CHECK = program().checks[0]
BROKEN: list[tuple[dict[str, object], str]] = [
    ({"checks": (replace(CHECK, input=2),)}, r"^check\[0\]: input 2; the program has 2$"),
    ({"checks": (replace(CHECK, input=1),)}, r"^check\[0\]: input 1 is f32; need integers$"),
    ({"checks": (replace(CHECK, sizes=()),)}, r"^check\[0\]: 0 sizes, 1 strides; need as many, at most 8$"),
    ({"checks": (replace(CHECK, min=Dim(-(2**31))),)}, r"^check\[0\]: range \[-2147483648, "),
    ({"checks": (replace(CHECK, sizes=(Dim(-1),)),)}, r"^check\[0\]: range \[-1, -1\]; need \[0, "),
    ({"checks": (replace(CHECK, max=Dim(0, ((1, 3),))),)}, r"^check\[0\]: symbols \[3\]; need distinct "),
    ({"faults": 5}, r"^faults: tensor 5; the program has 5$"),
    ({"faults": -2}, r"^faults: tensor -2; the program has 5$"),
    ({"faults": X}, r"^faults: tensor x; need an arena buffer i32\[5\], no alias$"),
    ({"faults": COPY}, r"^faults: tensor copy; need an arena buffer i32\[5\], no alias$"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "text"), BROKEN, ids=[text[:60] for _, text in BROKEN])
def test_invariants(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ProgramError, match=text):
        replace(program(), **fields).verify()


def test_faults_keep_their_memory_for_the_whole_run() -> None:
    tensors = program().tensors
    ends = [tensor.offset + tensor.size_bytes for tensor in tensors]
    for index, tensor in enumerate(tensors):
        if index != FAULTS:
            assert ends[index] <= tensors[FAULTS].offset or ends[FAULTS] <= tensor.offset


def test_equal_checks_are_made_once() -> None:
    b = ProgramBuilder()
    ids, y = b.tensor("ids", "i32", [3]), b.tensor("y", "i32", [3])
    b.input(ids)
    for layer in range(3):
        b.check(0, 7, f"places of k{layer}", tensor=ids, sizes=[3], strides=[1])
    b.check(0, 5, "rows of e", tensor=ids, sizes=[3], strides=[1])
    b.call("arange", {"y": y}, {"start": 0, "step": 1})
    b.output(y)
    found = [(check.max.base, check.what) for check in b.build()[0].checks]
    assert found == [(7, "places of k0"), (5, "rows of e")]
    assert Check(0, Dim(0), Dim(7), "k").sizes == ()

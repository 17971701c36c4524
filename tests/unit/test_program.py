"""Program: golden text, ranges, and every invariant of verify() broken once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from zeropoint import ProgramBuilder, ProgramError
from zeropoint.dtypes import DType
from zeropoint.program import Arg, Attr, Dim, HostDType, Input, Output, Program, Symbol


def small() -> Program:
    """x [rows, 64] -> qparams, codes, and a linear in two column pieces; one image, two constants."""
    b = ProgramBuilder()
    rows = b.symbol("rows", 1, 100)
    x = b.tensor("x", "f32", [rows, 64])
    scale, zp = b.tensor("scale", "f32", [rows]), b.tensor("zp", "i8", [rows], storage="image")
    q = b.tensor("q", "i8", [rows, 64])
    w = b.constant("w", "i4", [2, 5, 32], data=np.arange(160, dtype=np.uint8).reshape(2, 5, 16))
    bias = b.constant("bias", "f32", [5], data=lambda: np.ones(5, np.float32))
    y = [b.tensor("y", "f32", [rows, 5]), b.tensor("y", "f32", [rows, 3])]
    b.input(x)
    b.input_symbol(rows)
    b.call("choose_qparams_per_row", {"x": x, "scale": scale, "zp": zp}, {"mapping": 0, "eps": 1e-5}, debug_handles=[3])
    b.call("quantize_and_pack", {"x": x, "scale": scale, "zp": zp, "q": q, "group_sums": None}, {"rounding": 0})
    for piece in y:
        b.call("linear_dq8ca_q4gsw", {"q": q, "scale": scale, "zp": zp, "w": w, "bias": bias, "y": piece}, name="fc1")
    b.output(y, "bf16")
    return b.build()[0]


def test_golden_text(golden: Callable[[str, str], None]) -> None:
    golden("program_small", str(small()))


def test_dim_range_and_value() -> None:
    symbols = (Symbol("a", 1, 4), Symbol("b", 2, 3))
    dim = Dim(10, ((-2, 0), (3, 1)))
    assert dim.range(symbols) == (10 - 8 + 6, 10 - 2 + 9)
    assert dim.value((4, 2)) == 8


def test_call_tensor_by_slot() -> None:
    call = small().calls[0]
    assert call.tensor("zp") == 2
    with pytest.raises(KeyError):
        call.tensor("bias")


def _tensor(index: int, **changes: object) -> Callable[[Program], Program]:
    def change(program: Program) -> Program:
        tensors = list(program.tensors)
        tensors[index] = replace(tensors[index], **changes)
        return replace(program, tensors=tuple(tensors))

    return change


def _call(index: int, **changes: object) -> Callable[[Program], Program]:
    def change(program: Program) -> Program:
        calls = list(program.calls)
        calls[index] = replace(calls[index], **changes)
        return replace(program, calls=tuple(calls))

    return change


def _field(**changes: object) -> Callable[[Program], Program]:
    return lambda program: replace(program, **changes)


X, SCALE, ZP, Q, W = range(5)
ROWS = Dim(0, ((1, 0),))
BROKEN = [
    (_field(version=7), r"^program: version 7; this package knows 1; export again$"),
    (_field(symbols=(Symbol("rows", 5, 2),)), r"^symbol\[0\] rows: range \[5, 2\]; need 0 <= min <= max"),
    (_field(symbols=(Symbol("", 1, 2),)), r"^symbol name '': empty or used twice"),
    (_field(symbols=(Symbol("rows", 1, 100), Symbol("z", 1, 2))), r"^symbol\[1\] z: no input gives it a value"),
    (_tensor(X, dtype=DType.NONE), r"^tensor\[0\] x: dtype none, storage buffer; none is no allocation"),
    (_tensor(X, dims=(Dim(1),) * 9), r"^tensor\[0\] x: 9 dimensions; at most 8"),
    (_tensor(X, dims=(Dim(0, ((1, 4),)), Dim(64))), r"^tensor\[0\] x: dim\[0\]: symbols \[4\]; need distinct indices"),
    (_tensor(X, dims=(Dim(0, ((0, 0),)), Dim(64))), r"x: dim\[0\]: a coefficient is 0"),
    (_tensor(X, dims=(Dim(-9), Dim(64))), r"x: dim\[0\]: range \[-9, -9\]; need \[0, 2147483647\]"),
    (_tensor(X, dims=(Dim(2**20), Dim(2**20))), r"x: 1099511627776 elements; at most"),
    (_tensor(X, size_bytes=25616), r"x: size_bytes 25616; its dtype and dimensions need 25600"),
    (_tensor(X, name="q"), r"^tensor name 'q': empty or used twice"),
    (_tensor(W, dims=(Dim(2), Dim(32), Dim(5))), r"w: i4 needs a static, even last dimension"),
    (_tensor(W, constant="ABC"), r"w: constant key 'ABC'; need 64 lower-case"),
    (_tensor(W, offset=256), r"w: a constant is a buffer with offset 0 and no symbols"),
    (_tensor(X, constant="a" * 64), r"x: arena memory with constant key 'a+'; leave the key empty"),
    (_tensor(ZP, offset=256), r"zp: an image has offset 0 and no i4"),
    (_tensor(X, offset=100), r"x: offset 100; need a multiple of 256"),
    (_tensor(X, offset=256 * 1000), r"x: bytes \[256000, 281600\); arena has \d+"),
    (_tensor(Q, offset=0), r"^tensor\[\d\] (q|x): shares arena bytes with tensor\[\d\] (q|x) while both are live"),
    (_call(0, kernel=""), r"^call\[0\] : needs a kernel name and at least one argument"),
    (_call(0, args=()), r"^call\[0\] choose_qparams_per_row: needs a kernel name and at least one argument"),
    (_call(1, args=(Arg("x", 0), Arg("x", 1))), r"^call\[1\] quantize_and_pack: slot name 'x': empty or used twice"),
    (_call(1, args=(Arg("x", 99),)), r"^call\[1\] quantize_and_pack: slot x: tensor: index 99; need 0 <= index < 8"),
    (_call(0, attrs=(Attr("a", 1), Attr("a", 1))), r"attribute name 'a': empty or used twice"),
    (_call(0, attrs=(Attr("eps", float("nan")),)), r"attribute eps: nan; need a finite number"),
    (_call(0, attrs=(Attr("n", 2**63),)), r"attribute n: 9223372036854775808; need 64 bits"),
    (_field(inputs=(Input(0, 0, HostDType.F32),)), r"^input\[0\]: tensor 0, symbol 0; exactly one must be given"),
    (
        _field(inputs=(Input(0, -1, HostDType.I64),)),
        r"^input\[0\]: tensor x: dtype f32 for host dtype i64; offered i32",
    ),
    (
        _field(inputs=(Input(0, -1, HostDType.F32), Input(-1, 0, HostDType.F32))),
        r"^input\[1\]: host dtype f32 of a symbol; need i64",
    ),
    (_field(inputs=(Input(0, -1, HostDType.F32),) * 2), r"^input tensor name '0': empty or used twice"),
    (
        _field(inputs=(Input(0, -1, HostDType.F32), Input(2, -1, HostDType.I8))),
        r"^input\[1\]: tensor zp is no arena buffer",
    ),
    (_field(outputs=(Output((), HostDType.F32),)), r"^output\[0\]: no tensors; need at least one"),
    (_field(outputs=(Output((6, 99), HostDType.F32),)), r"^output\[0\]: tensor: index 99"),
    (
        _field(outputs=(Output((6, 1), HostDType.F32),)),
        r"^output\[0\]: pieces differ in dtype or in leading dimensions",
    ),
    (_field(outputs=(Output((1, 1), HostDType.F32),)), r"^output\[0\]: a piece needs a static last dimension"),
    (
        lambda p: replace(p, tensors=(*p.tensors, replace(p.tensors[X], name="lost"))),
        r"^tensor\[8\] lost: nothing uses it",
    ),
]


@pytest.mark.parametrize(("change", "text"), BROKEN, ids=[text[:60] for _, text in BROKEN])
def test_verify_names_what_is_broken(change: Callable[[Program], Program], text: str) -> None:
    with pytest.raises(ProgramError, match=text):
        change(small()).verify()


def test_memory_is_reused_only_when_asked() -> None:
    def chain(reuse: bool) -> Program:
        b = ProgramBuilder()
        last = b.tensor("t0", "f32", [64])
        b.input(last)
        for index in range(1, 5):
            following = b.tensor(f"t{index}", "f32", [64])
            b.call("copy", {"x": last, "y": following})
            last = following
        b.output(last)
        return b.build(reuse_memory=reuse)[0]

    assert chain(True).arena_bytes == 2 * 256
    assert chain(False).arena_bytes == 5 * 256


def test_builder_refuses_a_constant_of_the_wrong_size() -> None:
    b = ProgramBuilder()
    b.output(b.tensor("y", "f32", [3]))
    b.constant("w", "f32", [3], data=np.zeros(50, np.float32))
    with pytest.raises(ProgramError, match=r"^constant w: 200 bytes; its dtype and dimensions need 16 \(or up to 15"):
        b.build()


def test_constants_of_equal_content_are_stored_once() -> None:
    b = ProgramBuilder()
    y = b.tensor("y", "f32", [4])
    pair = [b.constant(name, "f32", [4], data=np.full(4, 2.0, np.float32)) for name in "ab"]
    b.call("add", {"a": pair[0], "b": pair[1], "y": y})
    b.output(y)
    program, constants = b.build()
    assert len(constants) == 1
    assert program.tensors[1].constant == program.tensors[2].constant


def test_importable_without_torch() -> None:
    code = (
        "import sys, zeropoint, zeropoint.program, zeropoint.builder, zeropoint.packing, zeropoint.options;"
        "import zeropoint.serialization.program_io; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

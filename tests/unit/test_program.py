"""Program: golden text, ranges, and every invariant of verify() broken once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.signatures import signature
from zeropoint import ProgramBuilder, ProgramError
from zeropoint.kernels.dtypes import DType, Storage
from zeropoint.program import Arg, Attr, Dim, HostDType, Input, Output, Program, Symbol, SymbolOp

KERNELS = {
    **signature("choose_qparams_per_row", "x", "scale zp", mapping="int", eps="float"),
    **signature("quantize_and_pack", "x scale zp", "q", rounding="int"),
    **signature("linear_dq8ca", "q scale zp w bias", "y"),
    **signature("strided_copy", "x", "y", size2="int", y_offset="int"),
}


def small() -> Program:
    """x [rows, 64] -> qparams, codes, and a linear in two column pieces; one image, two constants."""
    b = ProgramBuilder(KERNELS)
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
        b.call("linear_dq8ca", {"q": q, "scale": scale, "zp": zp, "w": w, "bias": bias, "y": piece}, name="fc1")
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
    (_field(version=7), r"^program: version 7; this package knows 1, 2, 3, 4; export again$"),
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
    (_tensor(W, constant="ABC"), r"w: constant key 'ABC'; need 32 lower-case"),
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


def stateful() -> Program:
    """x [n, 4] goes into a state behind row n; n * n // 2 of its elements come out through an alias."""
    b = ProgramBuilder(KERNELS)
    n = b.symbol("n", 2, 8)
    half = b.derived(SymbolOp.QUOTIENT, b.derived(SymbolOp.PRODUCT, n, n), Dim(2))
    x = b.tensor("x", "f32", [n, 4])
    cache = b.state("cache", "f32", [16, 4], data=np.ones((16, 4), np.float32))
    flat = b.alias(cache, [half])
    y = b.tensor("y", "f32", [half])
    b.input(x)
    b.call("strided_copy", {"x": x, "y": cache}, {"size2": n, "y_offset": Dim(-4, ((4, 0),))})
    b.call("strided_copy", {"x": flat, "y": y}, {"size2": half, "y_offset": 0})
    b.output(y)
    return b.build()[0]


def _symbol(index: int, **changes: object) -> Callable[[Program], Program]:
    def change(program: Program) -> Program:
        symbols = list(program.symbols)
        symbols[index] = replace(symbols[index], **changes)
        return replace(program, symbols=tuple(symbols))

    return change


def _offset(value: Dim) -> Callable[[Program], Program]:
    return _call(0, attrs=(Attr("y_offset", value),))


CACHE, FLAT = 1, 2
BROKEN_2 = [
    (_symbol(1, a=Dim(0, ((1, 3),))), r"symbol\[1\] d1: symbols \[3\]; need distinct indices below 3"),
    (_symbol(1, a=Dim(0, ((1, 0), (1, 0)))), r"symbol\[1\] d1: symbols \[0, 0\]; need distinct indices below 3"),
    (_symbol(1, b=Dim(0, ((0, 0),))), r"symbol\[1\] d1: a coefficient is 0; leave the term out"),
    (_symbol(1, b=Dim(-3, ((1, 0),))), r"symbol\[1\] d1: range \[-1, 5\]; need \[0, 2147483647\]"),
    (_symbol(1, a=Dim(0, ((1, 1),))), r"symbol\[1\] d1: derived from a later symbol; need indices below 1"),
    (_symbol(1, b=Dim(0, ((1, 2),))), r"symbol\[1\] d1: derived from a later symbol; need indices below 1"),
    (_symbol(1, max=63), r"symbol\[1\] d1: range \[4, 63\]; its operands give \[4, 64\]"),
    (_symbol(2, min=1), r"symbol\[2\] d2: range \[1, 32\]; its operands give \[2, 32\]"),
    (_symbol(2, b=Dim(0)), r"symbol: divided by \[0, 0\]; need at least 1"),
    (_symbol(1, op=SymbolOp.GIVEN), r"symbol\[1\] d1: no input gives it a value"),
    (
        _tensor(CACHE, constant="12"),
        r"tensor\[1\] cache: constant key '12'; need 32 lower-case hexadecimal digits",
    ),
    (_tensor(CACHE, offset=256), r"tensor\[1\] cache: a state is a buffer with offset 0 and no symbols"),
    (_tensor(CACHE, storage=Storage.IMAGE), r"tensor\[1\] cache: a state is a buffer with offset 0 and no symbols"),
    (
        _tensor(CACHE, dims=(Dim(0, ((2, 0),)), Dim(4))),
        r"tensor\[1\] cache: a state is a buffer with offset 0 and no symbols",
    ),
    (_tensor(CACHE, shared="c" * 257), r"tensor\[1\] cache: shared under a key of 257 bytes; at most 256"),
    (
        _tensor(FLAT, shared="key"),
        r"tensor\[2\] cache.view: shared under 'key'; only a state that is no alias is shared",
    ),
    (_tensor(FLAT, alias_of=2), r"tensor\[2\] cache.view: alias of tensor 2; need an earlier one"),
    (_tensor(FLAT, alias_of=-2), r"tensor\[2\] cache.view: alias of tensor -2; need an earlier one"),
    (
        _tensor(3, alias_of=2),
        r"tensor\[3\] y: alias of cache.view, which is an alias or an image; need a buffer",
    ),
    (
        _tensor(3, storage=Storage.IMAGE, offset=0, alias_of=0),
        r"tensor\[3\] y: alias of x, which is an alias or an image; need a buffer",
    ),
    (
        _tensor(FLAT, dtype=DType.I32),
        r"tensor\[2\] cache.view: alias of cache, which differs in dtype, memory or offset, or is constant",
    ),
    (
        _tensor(FLAT, constant=""),
        r"tensor\[2\] cache.view: alias of cache, which differs in dtype, memory or offset, or is constant",
    ),
    (
        _tensor(FLAT, alias_of=0),
        r"tensor\[2\] cache.view: alias of x, which differs in dtype, memory or offset, or is constant",
    ),
    (
        _tensor(FLAT, dims=(Dim(0, ((1, 1),)), Dim(2)), size_bytes=512),
        r"tensor\[2\] cache.view: 512 bytes; cache, which it is an alias of, has 256",
    ),
    (
        _offset(Dim(0, ((1, 5),))),
        r"call\[0\] strided_copy: attribute y_offset: symbols \[5\]; need distinct indices below 3",
    ),
    (
        _offset(Dim(0, ((1, 0), (2, 0)))),
        r"call\[0\] strided_copy: attribute y_offset: symbols \[0, 0\]; need distinct indices below 3",
    ),
    (
        _offset(Dim(7)),
        r"call\[0\] strided_copy: attribute y_offset: range \[7, 7\]; need symbols, and values of 32 bits",
    ),
    (
        _offset(Dim(2**31 - 8, ((1, 0),))),
        r"call\[0\] strided_copy: attribute y_offset: range \[2147483642, 2147483648\]; "
        r"need symbols, and values of 32 bits",
    ),
    (
        _offset(Dim(-(2**31), ((-1, 0),))),
        r"call\[0\] strided_copy: attribute y_offset: range \[-2147483656, -2147483650\]; "
        r"need symbols, and values of 32 bits",
    ),
]


def test_a_program_of_version_2_verifies() -> None:
    program = stateful()
    assert [(symbol.min, symbol.max) for symbol in program.symbols] == [(2, 8), (4, 64), (2, 32)]
    assert program.tensors[FLAT].constant == program.tensors[CACHE].constant != ""
    _tensor(CACHE, name="c" * 256)(program).verify()
    _offset(Dim(2**31 - 9, ((1, 0),)))(program).verify()
    _offset(Dim(-(2**31) + 9, ((-1, 0),)))(program).verify()


@pytest.mark.parametrize(("change", "text"), BROKEN_2, ids=[text[:60] for _, text in BROKEN_2])
def test_verify_names_what_is_broken_in_version_2(change: Callable[[Program], Program], text: str) -> None:
    with pytest.raises(ProgramError, match=f"^{text}$"):
        change(stateful()).verify()


def test_a_constant_has_no_alias() -> None:
    program = small()
    w = program.tensors[W]
    broken = replace(program, tensors=(*program.tensors, replace(w, name="alias", alias_of=W)))
    with pytest.raises(ProgramError, match=r"^tensor\[8\] alias: alias of w, which differs in .*, or is constant$"):
        broken.verify()


def test_memory_is_reused_only_when_asked() -> None:
    def chain(reuse: bool) -> Program:
        b = ProgramBuilder(signature("copy", "x", "y"))
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
    b = ProgramBuilder(signature("add", "a b", "y"))
    y = b.tensor("y", "f32", [4])
    pair = [b.constant(name, "f32", [4], data=np.full(4, 2.0, np.float32)) for name in "ab"]
    b.call("add", {"a": pair[0], "b": pair[1], "y": y})
    b.output(y)
    program, constants = b.build()
    assert len(constants) == 1
    assert program.tensors[1].constant == program.tensors[2].constant


def test_importable_without_torch() -> None:
    code = (
        "import sys, zeropoint, zeropoint.program, zeropoint.program.builder, zeropoint.program.io;"
        "import zeropoint.lowering.packing, zeropoint.lowering.options; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""What Program version 2 added, contradicted: derived symbols, states, aliases, symbolic attributes. No device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
import pytest

from tests.unit.runtime.test_verify import KEY, put
from zeropoint.errors import RuntimeFailure
from zeropoint.program import Dim, SymbolOp
from zeropoint.program.builder import ProgramBuilder
from zeropoint.program.io import write_program
from zeropoint.runtime.player import verify_blob
from zeropoint.serialization._generated import program_generated as fb

N, SQUARE, HALF = range(3)
X, CACHE, FLAT, Y = range(4)


def copied(rows: Dim, columns: int, *, offset: int | Dim) -> dict[str, int | float | Dim]:
    """Attributes of a strided_copy of [rows, columns], dense on both sides, to an offset of y."""
    strides = {f"{slot}_stride{axis}": (0, 0, columns, 1)[axis] for slot in "xy" for axis in range(4)}
    sizes: dict[str, int | float | Dim] = {"size0": 1, "size1": 1, "size2": rows, "size3": columns}
    return {**sizes, **strides, "x_offset": 0, "y_offset": offset}


def blob() -> bytes:
    """x [n, 4] goes into a cache behind row n, whose first n * n // 2 elements come out through an alias."""
    b = ProgramBuilder()
    n = b.symbol("n", 2, 8)
    half = b.derived(SymbolOp.QUOTIENT, b.derived(SymbolOp.PRODUCT, n, n), Dim(2))
    x = b.tensor("x", "f32", [n, 4])
    cache = b.state("cache", "f32", [16, 4], data=np.zeros((16, 4), np.float32))
    flat = b.alias(cache, [half])
    y = b.tensor("y", "f32", [half])
    b.input(x)
    b.call("strided_copy", {"x": x, "y": cache}, copied(n, 4, offset=Dim(0, ((4, 0),))), name="in")
    b.call("strided_copy", {"x": flat, "y": y}, copied(half, 1, offset=0), name="out")
    b.output(y)
    return write_program(b.build()[0])


def changed(change: Callable[[Any], object]) -> bytes:
    """blob() with a change that the writer would not let through."""
    root = fb.ProgramT.InitFromObj(fb.Program.GetRootAs(blob()))
    change(root)
    builder = flatbuffers.Builder(1024)
    builder.Finish(root.Pack(builder), b"ZPP1")
    return bytes(builder.Output())


def all_of(*changes: Callable[[Any], object]) -> Callable[[Any], object]:
    """Several changes, one after the other."""
    return lambda root: [change(root) for change in changes]


def y_offset(root: Any) -> Any:
    """The symbolic attribute of the first call."""
    return next(attr for attr in root.calls[0].attrs if attr.name == b"y_offset")


def second_state(**changes: object) -> Callable[[Any], object]:
    """Turns y into one more state."""

    def change(root: Any) -> None:
        y, cache = root.tensors[Y], root.tensors[CACHE]
        y.memory, y.name, y.dims, y.sizeBytes, y.offset = 2, cache.name, cache.dims, cache.sizeBytes, 0
        root.outputs, root.arenaBytes = [], 256
        for name, value in changes.items():
            setattr(y, name, value)

    return change


CACHE_IS, FLAT_IS, IN_CALL = "tensor[1] cache: ", "tensor[2] cache.view: ", "call[0] strided_copy: "
UNLIKE = (
    "cannot be an alias of cache; need an arena or state buffer as large, of the same dtype, memory and offset, that "
)
KEYS = "need at most 4096 states, shared under different keys of at most 256 bytes"
CASES: list[tuple[Callable[[Any], object], str]] = [
    (put("symbols[1].op", 3), "symbol[1] d1: operation 3 without two operands"),
    (put("symbols[1].a", None), "symbol[1] d1: operation 1 without two operands"),
    (put("symbols[1].b", None), "symbol[1] d1: operation 1 without two operands"),
    (put("symbols[1].max", 65), "symbol[1] d1: range [4, 65]; its operands give [4, 64]"),
    (put("symbols[2].min", 1), "symbol[2] d2: range [1, 32]; its operands give [2, 32]"),
    (put("symbols[2].b.base", 0), "symbol[2] d2: divided by [0, 0]; need at least 1"),
    (put("symbols[2].b.base", -1), "symbol[2] d2: leaves 32 bits for some symbol values"),
    (put("symbols[1].a.terms[0].symbol", 1), "symbol[1] d1: symbol 1; the program has 1"),
    (put("symbols[1].a.terms[0].coefficient", 2**61), "symbol[1] d1: leaves 32 bits for some symbol values"),
    (
        all_of(put("symbols[0].max", 2**31 - 1), put("symbols[0].min", 2**31 - 1)),
        f"symbol[1] d1: range [4, 64]; its operands give [{(2**31 - 1) ** 2}, {(2**31 - 1) ** 2}]",
    ),
    (put("symbols[1].op", 0), "symbol[1] d1: no input gives it a value"),
    (put("tensors[1].constant", b"12"), CACHE_IS + "constant key 12; need 32 lower-case hexadecimal digits"),
    (put("tensors[1].constant", KEY[1:] + "G"), CACHE_IS + f"constant key {KEY[1:]}G; need 32 lower-case hexa"),
    (put("tensors[1].offset", 256), CACHE_IS + "a constant or a state is a buffer with offset 0"),
    (put("tensors[1].storage", 2), CACHE_IS + "a constant or a state is a buffer with offset 0"),
    (put("tensors[1].memory", 0), CACHE_IS + "arena memory with constant key "),
    (put("tensors[1].dims[0].terms", [fb.TermT()]), CACHE_IS + "dim[0]: a coefficient of 0"),
    (put("tensors[1].shared", b"c" * 257), CACHE_IS + KEYS),
    (all_of(put("tensors[1].shared", b"key"), second_state(shared=b"key")), f"tensor[3] cache: {KEYS}"),
    (put("tensors[0].shared", b"key"), "tensor[0] x: shared under key; only a state that is no alias is shared"),
    (put("tensors[2].shared", b"key"), FLAT_IS + "shared under key; only a state that is no alias is shared"),
    (
        all_of(
            put("version", 3),
            put("tensors[1].constant", b"0" * 64),
            put("tensors[2].constant", b"0" * 64),
            second_state(),
        ),
        f"tensor[3] cache: {KEYS}",
    ),
    (
        all_of(put("version", 3), put("tensors[1].constant", b"0" * 32)),
        CACHE_IS + f"constant key {'0' * 32}; need 64 lower-case hexadecimal digits",
    ),
    (put("tensors[2].aliasOf", 2), FLAT_IS + "alias of tensor 2; need an earlier one"),
    (put("tensors[2].aliasOf", 2**31 - 1), FLAT_IS + f"alias of tensor {2**31 - 1}; need an earlier one"),
    (put("tensors[2].aliasOf", 0), FLAT_IS + "cannot be an alias of x; need an arena or state buffer as large, "),
    (put("tensors[2].constant", None), FLAT_IS + UNLIKE),
    (put("tensors[2].dtype", 3), FLAT_IS + UNLIKE),
    (put("tensors[2].memory", 1), FLAT_IS + UNLIKE),
    (put("tensors[2].offset", 256), FLAT_IS + UNLIKE),
    (put("tensors[2].storage", 2), FLAT_IS + UNLIKE),
    (
        all_of(put("tensors[2].dims[0].terms[0].coefficient", 3), put("tensors[2].sizeBytes", 384)),
        FLAT_IS + UNLIKE,
    ),
    (put("tensors[3].aliasOf", 2), "tensor[3] y: cannot be an alias of cache.view; need an arena or state buffer as "),
    (put("calls[0].args[0].tensor", FLAT), IN_CALL + "slot y: shares memory with slot x"),
    (put("outputs[0].tensors", [CACHE]), "output[0]: tensor cache is no arena buffer"),
    (lambda r: setattr(y_offset(r), "kind", 3), IN_CALL + "attribute y_offset: kind 3; the kernel needs an integer"),
    (lambda r: setattr(y_offset(r), "symbolic", None), IN_CALL + "attribute y_offset: kind 2; the kernel needs an "),
    (
        lambda r: setattr(y_offset(r).symbolic, "base", -(2**31) - 9),
        IN_CALL + "attribute y_offset: leaves 32 bits for some symbol values",
    ),
    (
        lambda r: setattr(y_offset(r).symbolic.terms[0], "coefficient", -(2**62)),
        IN_CALL + "attribute y_offset: leaves 32 bits for some symbol values",
    ),
    (
        lambda r: setattr(y_offset(r).symbolic.terms[0], "symbol", 3),
        IN_CALL + "attribute y_offset: symbol 3; the program has 3",
    ),
]


def test_the_unchanged_program_verifies() -> None:
    verify_blob(blob())
    verify_blob(changed(lambda root: None))


@pytest.mark.parametrize(("change", "text"), CASES, ids=[text[:70] for _, text in CASES])
def test_refused_in_one_line(change: Callable[[Any], object], text: str) -> None:
    with pytest.raises(RuntimeFailure) as refused:
        verify_blob(changed(change))
    assert str(refused.value).startswith(f"program: {text}")
    assert "\n" not in str(refused.value)


def test_a_symbolic_attribute_may_be_negative_and_a_state_may_start_as_zeros() -> None:
    verify_blob(changed(lambda root: setattr(y_offset(root).symbolic, "base", -100)))
    verify_blob(changed(all_of(put("tensors[1].constant", None), put("tensors[2].constant", None))))
    verify_blob(changed(second_state(name=b"other")))


def test_a_state_has_no_symbols_but_through_an_alias() -> None:
    def grows(root: Any) -> None:
        root.tensors[CACHE].dims[0] = root.tensors[X].dims[0]
        root.tensors[CACHE].sizeBytes = 128

    with pytest.raises(RuntimeFailure, match=r"^program: tensor\[1\] cache: a constant has no symbols$"):
        verify_blob(changed(grows))


def test_i4_needs_a_static_even_last_dimension() -> None:
    def odd(root: Any) -> None:
        x = root.tensors[X]
        x.dtype, x.dims[1].base, x.sizeBytes = 6, 3, 16

    with pytest.raises(RuntimeFailure, match=r"^program: tensor\[0\] x: i4 needs a static, even last dimension$"):
        verify_blob(changed(odd))

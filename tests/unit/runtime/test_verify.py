"""Every way a Program's bytes can contradict themselves, and the line the player says about it. No device needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import flatbuffers
import pytest

from tests.misaligned import misaligned
from zeropoint.errors import RuntimeFailure
from zeropoint.program.builder import ProgramBuilder
from zeropoint.program.io import write_program
from zeropoint.runtime.player import verify_blob
from zeropoint.serialization._generated import program_generated as fb

KEY = "0" * 32
QPARAMS = {"mapping": 0, "qmin": -128, "qmax": 127, "eps": 1e-7}
PACKING = {"rounding": 0, "qmin": -128, "qmax": 127, "group_size": 32, "group_padded": 32, "step": 32}


def blob() -> bytes:
    """x -> scale, zp (images) -> q; one symbol."""
    b = ProgramBuilder()
    rows = b.symbol("m", 1, 64)
    x = b.tensor("x", "f32", [rows, 64])
    scale = b.tensor("scale", "f32", [rows], storage="image")
    zp = b.tensor("zp", "i8", [rows], storage="image")
    q = b.tensor("q", "i8", [rows, 64])
    b.input(x)
    b.call("choose_qparams_per_row", {"x": x, "scale": scale, "zp": zp}, QPARAMS)
    b.call("quantize_and_pack", {"x": x, "scale": scale, "zp": zp, "q": q}, PACKING)
    b.output(q)
    return write_program(b.build()[0])


def changed(change: Callable[[Any], object]) -> bytes:
    """blob() with a change that the writer would not let through."""
    root = fb.ProgramT.InitFromObj(fb.Program.GetRootAs(blob()))
    change(root)
    builder = flatbuffers.Builder(1024)
    builder.Finish(root.Pack(builder), b"ZPP1")
    return bytes(builder.Output())


def put(target: str, value: object) -> Callable[[Any], object]:
    """A change that assigns to a path such as `tensors[0].offset`."""

    def change(root: Any) -> None:
        *path, last = re.findall(r"\w+", target)
        for part in path:
            root = root[int(part)] if part.isdigit() else getattr(root, part)
        if last.isdigit():
            root[int(last)] = value
        else:
            setattr(root, last, value)

    return change


def append(target: str, source: int) -> Callable[[Any], object]:
    """A change that repeats an element of a list such as `calls[0].args`."""

    def change(root: Any) -> None:
        for part in re.findall(r"\w+", target):
            root = root[int(part)] if part.isdigit() else getattr(root, part)
        root.append(root[source])

    return change


def symbol_input(symbol: int, host_dtype: int) -> Any:
    """An integer input."""
    item = fb.InputT()
    item.tensor, item.symbol, item.hostDtype = -1, symbol, host_dtype
    return item


def alternatives(*items: tuple[int, int, int]) -> Callable[[Any], object]:
    """A change that declares alternatives: first, fused, plain."""

    def change(root: Any) -> None:
        root.alternatives = []
        for first, fused, plain in items:
            made = fb.AlternativeT()
            made.first, made.fused, made.plain = first, fused, plain
            root.alternatives.append(made)

    return change


def overlapping(root: Any) -> None:
    root.tensors[3].offset, root.arenaBytes = 0, 16384


QPARAMS_CALL, PACK_CALL = "call[0] choose_qparams_per_row: ", "call[1] quantize_and_pack: "
X_DIM = "tensor[0] x: dim[0]: "
CASES: list[tuple[Callable[[Any], object], str]] = [
    (put("version", 5), "version 5; this player reads versions 1 to 4; export again or update zeropoint"),
    (put("arenaBytes", 2**50), f"arena_bytes {2**50}; its tensors end at 20480"),
    (put("arenaBytes", 0), "tensor[0] x: 16384 bytes at offset 0; the arena has 0 bytes"),
    (put("symbols[0].min", -1), "symbol[0] m: range [-1, 64]; need 0 <= min <= max < 2^31"),
    (put("symbols[0].min", 65), "symbol[0] m: range [65, 64]; need 0 <= min <= max < 2^31"),
    (put("tensors[0].dtype", 0), "tensor[0] x: dtype 0"),
    (put("tensors[0].dtype", 7), "tensor[0] x: dtype 7"),
    (put("tensors[0].storage", 0), "tensor[0] x: storage 0"),
    (put("tensors[0].memory", 3), "tensor[0] x: memory 3"),
    (put("tensors[0].dtype", 2), "tensor[0] x: size_bytes 16384; its dtype and dimensions need 8192"),
    (put("tensors[0].offset", 128), "tensor[0] x: offset 128; need a multiple of 256"),
    (put("tensors[0].offset", 2**64 - 256), f"tensor[0] x: 16384 bytes at offset {2**64 - 256}; the arena has 20480"),
    (put("tensors[0].constant", KEY), f"tensor[0] x: arena memory with constant key {KEY}; leave it empty"),
    (put("tensors[0].memory", 1), "tensor[0] x: constant key ; need 32 lower-case hexadecimal digits"),
    (put("tensors[1].offset", 256), "tensor[1] scale: an image has offset 0"),
    (put("tensors[1].dtype", 5), "tensor[1] scale: size_bytes 256; its dtype and dimensions need 64"),
    (put("tensors[2].dtype", 5), "tensor[2] zp: an image of u8; offered f32, f16, i32, i8"),
    (put("tensors[0].dims[1].base", -1), "tensor[0] x: dim[1]: leaves 32 bits for some symbol values"),
    (put("tensors[0].dims[1].base", 2**31 - 1), "tensor[0] x: more than 2^31 - 1 elements"),
    (put("tensors[0].dims[0].terms[0].symbol", 1), X_DIM + "symbol 1; the program has 1"),
    (put("tensors[0].dims[0].terms[0].coefficient", 0), X_DIM + "a coefficient of 0"),
    (put("tensors[0].dims[0].terms[0].coefficient", 2**62), X_DIM + "leaves 32 bits for some symbol values"),
    (lambda r: r.tensors[0].dims.extend(r.tensors[0].dims[1:] * 7), "tensor[0] x: 9 dimensions; at most 8"),
    (lambda r: r.tensors[0].dims[0].terms.extend(r.tensors[0].dims[0].terms * 8), X_DIM + "9 terms; at most 8"),
    (put("inputs[0].tensor", -1), "input[0]: tensor -1, symbol -1; exactly one must be given"),
    (put("inputs[0].tensor", 9), "input[0]: tensor 9; the program has 4"),
    (put("inputs[0].tensor", 1), "input[0]: tensor scale is no arena buffer"),
    (put("inputs[0].hostDtype", 3), "input[0]: tensor x: dtype f32 for host dtype i64"),
    (put("inputs[0].hostDtype", 8), "input[0]: tensor x: dtype f32 for host dtype unknown"),
    (append("inputs", 0), "input[1]: tensor 0 is given twice"),
    (lambda r: r.inputs.append(symbol_input(1, 3)), "input[1]: symbol 1; the program has 1"),
    (lambda r: r.inputs.append(symbol_input(0, 0)), "input[1]: host dtype 0 of a symbol; need i64"),
    (lambda r: r.inputs.clear(), "symbol[0] m: no input gives it a value"),
    (put("calls[1].kernel", b"rms\nnorm"), "call[1] rms?norm: no such kernel; this player has arange, "),
    (put("calls[0].args[1].slot", b"nope"), QPARAMS_CALL + "slot nope: the kernel has no such slot"),
    (append("calls[0].args", 2), QPARAMS_CALL + "slot zp: bound twice"),
    (put("calls[0].args[1].tensor", 4), QPARAMS_CALL + "slot scale: tensor 4; the program has 4"),
    (lambda r: r.calls[0].args.pop(), QPARAMS_CALL + "slot zp: not bound"),
    (put("calls[0].attrs[0].name", b"nope"), QPARAMS_CALL + "attribute nope: the kernel has no such attribute"),
    (append("calls[0].attrs", 0), QPARAMS_CALL + "attribute mapping: given twice"),
    (lambda r: r.calls[0].attrs.pop(), QPARAMS_CALL + "attribute eps: missing"),
    (put("calls[0].attrs[0].kind", 1), QPARAMS_CALL + "attribute mapping: kind 1; the kernel needs an integer"),
    (put("calls[0].attrs[3].kind", 0), QPARAMS_CALL + "attribute eps: kind 0; the kernel needs a real number"),
    (put("calls[0].attrs[3].real", float("inf")), QPARAMS_CALL + "attribute eps: not finite"),
    (lambda r: r.calls.pop(0), "call[0] quantize_and_pack: slot scale: tensor scale is read before anything writes it"),
    (put("calls[0].args[0].tensor", 3), QPARAMS_CALL + "slot x: tensor q is read before anything writes it"),
    (overlapping, PACK_CALL + "slot q: shares memory with slot x"),
    (put("calls[1].args[3].tensor", 0), PACK_CALL + "slot q: shares memory with slot x"),
    (alternatives((0, 1, 2)), "alternative[0]: need some fused and some plain calls, after 0, to 2"),
    (alternatives((0, 0, 2)), "alternative[0]: need some fused and some plain calls, after 0, to 2"),
    (alternatives((0, 2, 0)), "alternative[0]: need some fused and some plain calls, after 0, to 2"),
    (alternatives((2**32 - 1, 2**32 - 1, 3)), "alternative[0]: need some fused and some plain calls, after 0, to 2"),
    (alternatives((0, 1, 1), (1, 1, 1)), "alternative[1]: need some fused and some plain calls, after 2, to 2"),
    (put("outputs[0].tensors", []), "output[0]: no tensors; need at least one"),
    (put("outputs[0].tensors", [7]), "output[0]: tensor 7; the program has 4"),
    (put("outputs[0].hostDtype", 0), "output[0]: tensor q: dtype i8 for host dtype f32"),
    (lambda r: (r.calls.pop(), r.outputs[0]), "output[0]: tensor q is never written"),
]  # fmt: skip


def test_the_unchanged_program_verifies() -> None:
    verify_blob(blob())
    verify_blob(changed(lambda root: None))


@pytest.mark.parametrize(("change", "text"), CASES, ids=[text[:60] for _, text in CASES])
def test_refused_in_one_line(change: Callable[[Any], object], text: str) -> None:
    with pytest.raises(RuntimeFailure) as refused:
        verify_blob(changed(change))
    assert str(refused.value).startswith(f"program: {text}")
    assert "\n" not in str(refused.value)


def test_constants_have_a_key_and_no_symbols() -> None:
    def constant(root: Any) -> None:
        root.tensors[0].memory, root.tensors[0].constant = 1, KEY.encode()

    with pytest.raises(RuntimeFailure, match=r"^program: tensor\[0\] x: a constant has no symbols$"):
        verify_blob(changed(constant))

    def writes(root: Any) -> None:
        root.tensors[3].memory, root.tensors[3].constant = 1, KEY.encode()
        root.tensors[3].offset, root.tensors[3].dims[0].terms = 0, []
        root.tensors[3].dims[0].base, root.outputs, root.arenaBytes = 64, [], 16384

    with pytest.raises(RuntimeFailure, match=r"slot q: writes a constant$"):
        verify_blob(changed(writes))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes; need at least 8 and below 2^31"),
        (b"\0" * 64, "no ZPP1 identifier; this is no Program"),
        (b"\xff\xff\xff\x7fZPP1" + b"\0" * 64, "not a valid ZPP1 flatbuffer"),
    ],
)
def test_no_program_at_all(data: bytes, text: str) -> None:
    with pytest.raises(RuntimeFailure) as refused:
        verify_blob(data)
    assert str(refused.value) == f"program: {text}"


def test_every_cut_is_refused() -> None:
    whole = blob()
    for size in range(len(whole)):
        with pytest.raises(RuntimeFailure, match=r"^program: "):
            verify_blob(whole[:size])


@pytest.mark.parametrize("library", [b"", b"\0" * 64, b"\x08\0\0\0ZPL1" + b"\xff" * 64])
def test_a_damaged_kernel_library_is_refused(library: bytes) -> None:
    with pytest.raises(RuntimeFailure, match=r"^kernel library: not a valid ZPL1 flatbuffer$"):
        verify_blob(blob(), library=library)


def test_terms_that_may_not_be_read_where_they_lie() -> None:
    whole = blob()
    moved = misaligned(whole, fb.Program.GetRootAs(whole).Tensors(0).Dims(0), field=1, item_bytes=16)
    with pytest.raises(
        RuntimeFailure, match=r"^program: tensor\[0\] x: .*terms at an address that is no multiple of 8$"
    ):
        verify_blob(moved)

"""The player's evaluator against the Python one, on the same compiled operations."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import pytest

from zeropoint.errors import ProgramError, RuntimeFailure
from zeropoint.kernels.expr import Expr, OpCode, Scope, compile_expr, evaluate
from zeropoint.runtime import library as native

SLOTS = ("x", "w", "bias")
SHAPES: dict[str, Sequence[int] | None] = {"x": (2, 3, 5), "w": (7,), "bias": None}
ATTRS = {"group": 32, "big": 2**62}
CODES = {code: index for index, code in enumerate(OpCode)}


def run(ops: Sequence[tuple[str, int, int]]) -> int:
    """Evaluates (opcode, value, arg) in the player, on SHAPES and ATTRS."""
    table = (native.OpStruct * len(ops))(*((value, arg, CODES[OpCode(code)]) for code, value, arg in ops))
    slots = (native.TensorStruct * len(SLOTS))()
    for struct, name in zip(slots, SLOTS, strict=True):
        shape = SHAPES[name]
        struct.rank = -1 if shape is None else len(shape)
        struct.dims[: len(shape or ())] = shape or ()
    attrs = (ctypes.c_int64 * len(ATTRS))(*ATTRS.values())
    value = ctypes.c_int64()
    native.check(
        native.open_library().zp_evaluate(table, len(ops), slots, len(SLOTS), attrs, len(ATTRS), ctypes.byref(value))
    )
    return value.value


def compiled(text: str) -> Expr:
    return compile_expr(text, Scope("test", SLOTS, tuple(ATTRS)))


def in_player(expr: Expr) -> int:
    names = {name: index for names in (SLOTS, tuple(ATTRS)) for index, name in enumerate(names)}
    return run([(op.code.value, op.value, names.get(op.name, 0)) for op in expr.ops])


@pytest.mark.parametrize(
    "text",
    [
        "7", "-7 // 2", "-7 % 2", "7 % -2", "7 // -2", "ceil_div(7, 2)", "ceil_div(-7, 2)", "ceil_div(7, -2)",
        "dim(x, 0) + dim(x, -1) * dim(w, 0)", "rows(x)", "numel(x)", "rows(w)", "dim(bias, 3)", "rows(bias)",
        "numel(bias)", "present(bias)", "present(w)", "attr(group) - 40", "min(3, -4)", "max(3, -4)",
        "1 if rows(x) > 5 and not present(bias) else 2", "3 == 3", "3 != 3", "2 < 3", "3 <= 2", "2 > 3", "3 >= 3",
        "0 or 5", "0 and 5", "(4 if 0 else 6) * 2",
    ],
)  # fmt: skip
def test_same_value_as_python(text: str) -> None:
    expr = compiled(text)
    assert in_player(expr) == evaluate(expr, SHAPES, attrs=ATTRS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 // (rows(w) - 1)", "division by zero"),
        ("5 % (rows(w) - 1)", "division by zero"),
        ("attr(big) * 2", "64-bit overflow"),
        ("attr(big) + attr(big)", "64-bit overflow"),
        ("(0 - attr(big) - attr(big)) // (0 - 1)", "64-bit overflow"),
        ("dim(x, 3)", "a dimension that the tensor does not have"),
        ("dim(w, -2)", "a dimension that the tensor does not have"),
    ],
)
def test_failures_are_errors(text: str, reason: str) -> None:
    expr = compiled(text)
    with pytest.raises(RuntimeFailure, match=f"^{reason}$"):
        in_player(expr)
    with pytest.raises(ProgramError):
        evaluate(expr, SHAPES, attrs=ATTRS)


@pytest.mark.parametrize(
    ("ops", "text"),
    [
        ([], "no operations"),
        ([("add", 0, 0)], r"op\[0\]: takes from an empty stack"),
        ([("push", 1, 0), ("push", 2, 0)], "leaves 2 values; need 1"),
        ([("push", 1, 0)] * 33 + [("add", 0, 0)] * 32, r"op\[32\]: stack above 32"),
        ([("rows", 0, 3)], r"op\[0\]: operand 3; below 3"),
        ([("attr", 0, 2)], r"op\[0\]: operand 2; below 2"),
        ([("fact", 0, 0)], r"op\[0\]: operand 0; below 0"),
    ],
)
def test_malformed_operations_are_refused(ops: Sequence[tuple[str, int, int]], text: str) -> None:
    with pytest.raises(RuntimeFailure, match=f"^{text}$"):
        run(ops)


def test_unknown_opcode_is_refused() -> None:
    value = ctypes.c_int64()
    table = (native.OpStruct * 1)((0, 0, len(OpCode)))
    slots, attrs = (native.TensorStruct * 1)(), (ctypes.c_int64 * 1)()
    with pytest.raises(RuntimeFailure, match=r"^op\[0\]: opcode 25; at most 24$"):
        native.check(native.open_library().zp_evaluate(table, 1, slots, 1, attrs, 1, ctypes.byref(value)))

"""Expressions: what they mean, what is folded, and what is refused."""

from __future__ import annotations

import pytest

from zeropoint.errors import ManifestError, ProgramError
from zeropoint.kernels.expr import Op, OpCode, Scope, compile_expr, evaluate
from zeropoint.kernels.facts import FACTS
from zeropoint.serialization._generated import library_generated as fb

SCOPE = Scope(
    where="k.toml: key",
    slots=("x", "w", "bias"),
    integer_attrs=("step",),
    real_attrs=("eps",),
    constants={"TILE": 32, "ZERO": 0},
)
SHAPES = {"x": (2, 3, 5), "w": (7, 11)}


def run(text: str) -> int:
    return evaluate(compile_expr(text, SCOPE), SHAPES, attrs={"step": 8}, facts={"int8_dot": 1, "subgroup_size": 32})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dim(x, 0)", 2),
        ("dim(x, -1)", 5),
        ("dim(w, 2 - 1)", 11),
        ("rows(x)", 6),
        ("numel(x)", 30),
        ("present(x)", 1),
        ("present(bias)", 0),
        ("dim(bias, 0)", 0),
        ("rows(bias) + numel(bias)", 0),
        ("attr(step)", 8),
        ("device.subgroup_size", 32),
        ("TILE", 32),
        ("rows(x) + 2 * 3 - 1", 11),
        ("-numel(x) // 4", -8),
        ("-numel(x) % 4", 2),
        ("numel(x) % -4", -2),
        ("ceil_div(numel(x), 4)", 8),
        ("ceil_div(-numel(x), 4)", -7),
        ("min(rows(x), 4) + max(rows(x), 4)", 10),
        ("rows(x) == 6", 1),
        ("rows(x) != 6", 0),
        ("rows(x) < 6", 0),
        ("rows(x) <= 6", 1),
        ("rows(x) > 6", 0),
        ("rows(x) >= 6", 1),
        ("rows(x) and device.int8_dot", 1),
        ("0 or rows(x)", 1),
        ("not rows(x)", 0),
        ("rows(x) and rows(x) and 0 * rows(x)", 0),
        ("1 if rows(x) == 6 else 2", 1),
        ("1 if rows(x) == 7 else 2", 2),
    ],
)
def test_value(text: str, value: int) -> None:
    assert run(text) == value


def test_constants_are_folded() -> None:
    assert compile_expr("ceil_div(TILE * 2 + 1, 8) if 1 == 1 else 0", SCOPE).ops == (Op(OpCode.PUSH, value=9),)


def test_only_constant_parts_are_folded() -> None:
    assert compile_expr("rows(x) * (TILE // 4)", SCOPE).ops == (
        Op(OpCode.ROWS, name="x"),
        Op(OpCode.PUSH, value=8),
        Op(OpCode.MUL),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows(", "does not parse"),
        ("", "does not parse"),
        ("rows(q)", "'q' is no slot; slots: x, w, bias"),
        ("rows(1)", "'1' is no slot; slots: x, w, bias"),
        ("attr(steps)", "'steps' is no attribute; integers: step"),
        ("attr(eps)", "attribute eps is a float; it can only stand alone in push; integers: step"),
        ("device.int8", None),
        ("device.int9", "device.int9 is no device fact; offered int8_dot, storage_8bit"),
        ("TILES", "'TILES' is no constant; constants: TILE, ZERO; functions: dim, rows, numel, present, attr, min"),
        ("abs(1)", "'abs' is no function; offered dim, rows"),
        ("dim(x)", "dim takes 2 operands (got 1)"),
        ("rows(x, 1)", "rows takes 1 operands (got 2)"),
        ("min(1)", "min takes 2 operands (got 1)"),
        ("dim(x, rows(x))", "the index of dim(x, ...) varies ('rows(x)'); need a constant"),
        ("1 < rows(x) < 3", "a chained comparison; join two with `and`"),
        ("1.5", "'1.5' is not part of the language"),
        ("'a'", "\"'a'\" is not part of the language"),
        ("rows(x) / 2", "'rows(x) / 2' is not part of the language"),
        ("rows(x) ** 2", "is not part of the language"),
        ("x[0]", "'x[0]' is not part of the language"),
        ("min(*x)", "min takes 2 operands (got 1)"),
        ("min(a=1)", "is not part of the language"),
        ("True", "True; write 0 or 1"),
        ("1 // ZERO", "division by zero"),
        ("9223372036854775807 + 1", "64-bit overflow"),
        ("99999999999999999999", "64-bit overflow"),
        ("rows(x)" + " + rows(x)" * 40, "407 characters; at most 400"),
        ("1+(" * 33 + "rows(x)" + ")" * 33, "needs a stack of 34; at most 32"),
        ("-" * 399 + "1", None),
    ],
)
def test_refused(text: str, message: str | None) -> None:
    if message is None:
        compile_expr(text, SCOPE)
        return
    with pytest.raises(ManifestError) as error:
        compile_expr(text, SCOPE)
    assert str(error.value).startswith(f"k.toml: key: expression {text!r}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 // (rows(x) - 6)", "division by zero"),
        ("1 % (rows(x) - 6)", "division by zero"),
        ("ceil_div(1, rows(x) - 6)", "division by zero"),
        ("rows(x) * 9223372036854775807", "64-bit overflow"),
        ("dim(x, 3)", "dim(x, 3) of a tensor of rank 3"),
        ("dim(x, -4)", "dim(x, -4) of a tensor of rank 3"),
        ("rows(x) == 7 and 1 // (rows(x) - 6)", "division by zero"),
    ],
)
def test_fails_at_run_time(text: str, message: str) -> None:
    with pytest.raises(ProgramError) as error:
        run(text)
    assert str(error.value) == f"expression {text!r}: {message}"


def test_opcodes_are_those_of_the_schema() -> None:
    schema = {name: value for name, value in vars(fb.OpCode).items() if not name.startswith("_")}
    assert {code.value: index for index, code in enumerate(OpCode)} == schema


def test_facts_are_unique() -> None:
    assert len(set(FACTS)) == len(FACTS)

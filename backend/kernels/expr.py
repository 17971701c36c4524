"""Integer expressions of a manifest: parsed and type-checked here, run by the player as stack programs over int64.

`and`, `or` and `a if c else b` evaluate all their operands, as the player does: a guard does not protect a division.
Dimensions of an unbound optional slot are 0.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ..errors import ManifestError, ProgramError
from .facts import FACTS

MAX_STACK = 32
MAX_TEXT = 400  # keeps nesting, and the number of operations, small
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class OpCode(Enum):
    """The opcodes of library.fbs, by name."""

    PUSH = "push"
    DIM = "dim"
    ROWS = "rows"
    NUMEL = "numel"
    PRESENT = "present"
    ATTR = "attr"
    FACT = "fact"
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    MOD = "mod"
    CEIL_DIV = "ceil_div"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    LOGICAL_AND = "logical_and"
    LOGICAL_OR = "logical_or"
    LOGICAL_NOT = "logical_not"
    SELECT = "select"


LEAVES = (OpCode.PUSH, OpCode.DIM, OpCode.ROWS, OpCode.NUMEL, OpCode.PRESENT, OpCode.ATTR, OpCode.FACT)


@dataclass(frozen=True, slots=True)
class Op:
    """`name` is the slot, attribute or fact of a leaf; `value` the literal of PUSH or the index of DIM."""

    code: OpCode
    value: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Expr:
    text: str
    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression may name. `where` (file and key) opens every error text."""

    where: str
    slots: tuple[str, ...]
    integer_attrs: tuple[str, ...] = ()
    real_attrs: tuple[str, ...] = ()
    constants: Mapping[str, int] = field(default_factory=dict)


def compile_expr(text: str, scope: Scope) -> Expr:
    """Compiles an expression. Raises ManifestError with the scope's `where`, the text and what is offered."""
    return Expr(text=text, ops=_Compiler(text, scope).run())


def evaluate(
    expr: Expr,
    shapes: Mapping[str, Sequence[int] | None],
    *,
    attrs: Mapping[str, int] | None = None,
    facts: Mapping[str, int] | None = None,
) -> int:
    """Runs an expression as the player does. A slot that is missing or None in `shapes` is unbound.

    Raises ProgramError on overflow of int64, division by zero, or a dimension the tensor does not have.
    """
    try:
        return _run(expr.ops, shapes, attrs or {}, facts or {})
    except ArithmeticError as error:
        raise ProgramError(f"expression {expr.text!r}: {error}") from error


def _run(
    ops: Sequence[Op],
    shapes: Mapping[str, Sequence[int] | None],
    attrs: Mapping[str, int],
    facts: Mapping[str, int],
) -> int:
    stack: list[int] = []
    for op in ops:
        if op.code in LEAVES:
            value = _leaf(op, shapes, attrs, facts)
        elif op.code is OpCode.LOGICAL_NOT:
            value = int(stack.pop() == 0)
        elif op.code is OpCode.SELECT:
            no, yes, condition = stack.pop(), stack.pop(), stack.pop()
            value = yes if condition != 0 else no
        else:
            right, left = stack.pop(), stack.pop()
            value = _BINARY[op.code](left, right)
        if not INT64_MIN <= value <= INT64_MAX:
            raise ArithmeticError("64-bit overflow")
        stack.append(value)
    return stack[0]


def _leaf(
    op: Op,
    shapes: Mapping[str, Sequence[int] | None],
    attrs: Mapping[str, int],
    facts: Mapping[str, int],
) -> int:
    if op.code is OpCode.PUSH:
        return op.value
    if op.code is OpCode.ATTR:
        return attrs[op.name]
    if op.code is OpCode.FACT:
        return facts[op.name]
    shape = shapes.get(op.name)
    if op.code is OpCode.PRESENT or shape is None:
        return int(shape is not None)
    if op.code is OpCode.DIM:
        if not -len(shape) <= op.value < len(shape):
            raise ArithmeticError(f"dim({op.name}, {op.value}) of a tensor of rank {len(shape)}")
        return shape[op.value]
    product = 1
    for size in shape[:-1] if op.code is OpCode.ROWS else shape:
        product *= size
    return product


def _div(left: int, right: int) -> int:
    if right == 0:
        raise ArithmeticError("division by zero")
    return left // right


_BINARY: dict[OpCode, Callable[[int, int], int]] = {
    OpCode.ADD: lambda a, b: a + b,
    OpCode.SUB: lambda a, b: a - b,
    OpCode.MUL: lambda a, b: a * b,
    OpCode.DIV: _div,
    OpCode.MOD: lambda a, b: a - _div(a, b) * b,
    OpCode.CEIL_DIV: lambda a, b: -_div(-a, b),
    OpCode.MINIMUM: min,
    OpCode.MAXIMUM: max,
    OpCode.EQ: lambda a, b: int(a == b),
    OpCode.NE: lambda a, b: int(a != b),
    OpCode.LT: lambda a, b: int(a < b),
    OpCode.LE: lambda a, b: int(a <= b),
    OpCode.GT: lambda a, b: int(a > b),
    OpCode.GE: lambda a, b: int(a >= b),
    OpCode.LOGICAL_AND: lambda a, b: int(a != 0 and b != 0),
    OpCode.LOGICAL_OR: lambda a, b: int(a != 0 or b != 0),
}

_OPERATORS: dict[type[ast.AST], OpCode] = {
    ast.Add: OpCode.ADD,
    ast.Sub: OpCode.SUB,
    ast.Mult: OpCode.MUL,
    ast.FloorDiv: OpCode.DIV,
    ast.Mod: OpCode.MOD,
    ast.Eq: OpCode.EQ,
    ast.NotEq: OpCode.NE,
    ast.Lt: OpCode.LT,
    ast.LtE: OpCode.LE,
    ast.Gt: OpCode.GT,
    ast.GtE: OpCode.GE,
    ast.And: OpCode.LOGICAL_AND,
    ast.Or: OpCode.LOGICAL_OR,
}
_SLOT_FUNCTIONS = {"rows": OpCode.ROWS, "numel": OpCode.NUMEL, "present": OpCode.PRESENT}
_BINARY_FUNCTIONS = {"min": OpCode.MINIMUM, "max": OpCode.MAXIMUM, "ceil_div": OpCode.CEIL_DIV}
_FUNCTIONS = ("dim", *_SLOT_FUNCTIONS, "attr", *_BINARY_FUNCTIONS)


class _Compiler:
    def __init__(self, text: str, scope: Scope) -> None:
        self.text = text
        self.scope = scope

    def error(self, what: str) -> ManifestError:
        return ManifestError(f"{self.scope.where}: expression {self.text!r}: {what}")

    def run(self) -> tuple[Op, ...]:
        if len(self.text) > MAX_TEXT:
            raise self.error(f"{len(self.text)} characters; at most {MAX_TEXT}")
        try:
            tree = ast.parse(self.text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.error(f"does not parse ({error})") from error
        ops = self.node(tree.body)
        if (depth := _max_depth(ops)) > MAX_STACK:
            raise self.error(f"needs a stack of {depth}; at most {MAX_STACK}")
        return ops

    def node(self, node: ast.expr) -> tuple[Op, ...]:
        match node:
            case ast.Constant(value=bool() as flag):
                raise self.error(f"{flag}; write 0 or 1")
            case ast.Constant(value=int() as number):
                return self.fold(Op(OpCode.PUSH, value=number))
            case ast.Name():
                return self.constant(node.id)
            case ast.Attribute(value=ast.Name(id="device"), attr=fact):
                if fact not in FACTS:
                    raise self.error(f"device.{fact} is no device fact; offered {', '.join(FACTS)}")
                return (Op(OpCode.FACT, name=fact),)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.fold(Op(OpCode.SUB), (Op(OpCode.PUSH),), self.node(operand))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.fold(Op(OpCode.LOGICAL_NOT), self.node(operand))
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
                return self.fold(Op(_OPERATORS[type(operator)]), self.node(left), self.node(right))
            case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _OPERATORS:
                return self.fold(Op(_OPERATORS[type(operator)]), self.node(left), self.node(right))
            case ast.Compare(ops=[_, _, *_]):
                raise self.error("a chained comparison; join two with `and`")
            case ast.BoolOp(op=operator, values=values):
                result = self.node(values[0])
                for value in values[1:]:
                    result = self.fold(Op(_OPERATORS[type(operator)]), result, self.node(value))
                return result
            case ast.IfExp(test=test, body=yes, orelse=no):
                return self.fold(Op(OpCode.SELECT), self.node(test), self.node(yes), self.node(no))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.call(name, arguments)
        raise self.error(f"{ast.unparse(node)!r} is not part of the language; see section 3 of docs/design.md")

    def fold(self, op: Op, *operands: tuple[Op, ...]) -> tuple[Op, ...]:
        ops = (*(item for operand in operands for item in operand), op)
        if any(len(operand) != 1 or operand[0].code is not OpCode.PUSH for operand in operands):
            return ops
        try:
            return (Op(OpCode.PUSH, value=_run(ops, {}, {}, {})),)
        except ArithmeticError as error:
            raise self.error(str(error)) from error

    def constant(self, name: str) -> tuple[Op, ...]:
        if name not in self.scope.constants:
            offered = ", ".join(self.scope.constants) or "none"
            raise self.error(f"{name!r} is no constant; constants: {offered}; functions: {', '.join(_FUNCTIONS)}")
        return (Op(OpCode.PUSH, value=self.scope.constants[name]),)

    def call(self, name: str, arguments: list[ast.expr]) -> tuple[Op, ...]:
        if name not in _FUNCTIONS:
            raise self.error(f"{name!r} is no function; offered {', '.join(_FUNCTIONS)}")
        wanted = 2 if name == "dim" or name in _BINARY_FUNCTIONS else 1
        if len(arguments) != wanted:
            raise self.error(f"{name} takes {wanted} operands (got {len(arguments)})")
        if name in _BINARY_FUNCTIONS:
            return self.fold(Op(_BINARY_FUNCTIONS[name]), self.node(arguments[0]), self.node(arguments[1]))
        if name == "attr":
            return (Op(OpCode.ATTR, name=self.attribute(arguments[0])),)
        slot = self.slot(arguments[0])
        if name != "dim":
            return (Op(_SLOT_FUNCTIONS[name], name=slot),)
        index = self.node(arguments[1])
        if len(index) != 1 or index[0].code is not OpCode.PUSH:
            raise self.error(f"the index of dim({slot}, ...) varies ({ast.unparse(arguments[1])!r}); need a constant")
        return (Op(OpCode.DIM, value=index[0].value, name=slot),)

    def slot(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name) or node.id not in self.scope.slots:
            raise self.error(f"{ast.unparse(node)!r} is no slot; slots: {', '.join(self.scope.slots)}")
        return node.id

    def attribute(self, node: ast.expr) -> str:
        offered = ", ".join(self.scope.integer_attrs) or "none"
        if isinstance(node, ast.Name) and node.id in self.scope.real_attrs:
            raise self.error(f"attribute {node.id} is a float; it can only stand alone in push; integers: {offered}")
        if not isinstance(node, ast.Name) or node.id not in self.scope.integer_attrs:
            raise self.error(f"{ast.unparse(node)!r} is no attribute; integers: {offered}")
        return node.id


def _max_depth(ops: Sequence[Op]) -> int:
    depth = deepest = 0
    for op in ops:
        taken = 0 if op.code in LEAVES else 1 if op.code is OpCode.LOGICAL_NOT else 3 if op.code is OpCode.SELECT else 2
        depth += 1 - taken
        deepest = max(deepest, depth)
    return deepest

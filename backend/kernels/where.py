"""The `[variants] where` language: which combinations of dtypes and storages exist. Evaluated only at build.

`dtype(slot)` and `storage(slot)` compared (== != in not-in) with each other or with strings; and, or, not.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import ManifestError
from .dtypes import DType, Storage

Choice = tuple[DType, Storage]
Predicate = Callable[[Mapping[str, Choice]], bool]
_Value = Callable[[Mapping[str, Choice]], str]
_WORDS = {"dtype": tuple(item.value for item in DType), "storage": tuple(item.value for item in Storage)}


@dataclass(frozen=True, slots=True)
class Where:
    text: str
    accepts: Predicate


def compile_where(text: str, slots: tuple[str, ...], where: str) -> Where:
    """Compiles one condition. Raises ManifestError that opens with `where` (file and key)."""
    return Where(text=text, accepts=_Compiler(text, slots, where).run())


class _Compiler:
    def __init__(self, text: str, slots: tuple[str, ...], where: str) -> None:
        self.text = text
        self.slots = slots
        self.where = where

    def error(self, what: str) -> ManifestError:
        return ManifestError(f"{self.where}: expression {self.text!r}: {what}")

    def run(self) -> Predicate:
        try:
            tree = ast.parse(self.text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.error(f"does not parse ({error})") from error
        return self.condition(tree.body)

    def condition(self, node: ast.expr) -> Predicate:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                parts = [self.condition(value) for value in values]
                return lambda key: all(part(key) for part in parts)
            case ast.BoolOp(op=ast.Or(), values=values):
                parts = [self.condition(value) for value in values]
                return lambda key: any(part(key) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.condition(operand)
                return lambda key: not inner(key)
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                return self.comparison(left, operator, right)
        raise self.error(
            f"{ast.unparse(node)!r} is no condition; compare dtype(slot) or storage(slot), join by and, or, not"
        )

    def comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Predicate:
        kind, value = self.property(left)
        match operator, right:
            case ((ast.Eq() | ast.NotEq()), _):
                other = self.operand(right, kind)
                equal = isinstance(operator, ast.Eq)
                return lambda key: (value(key) == other(key)) is equal
            case ((ast.In() | ast.NotIn()), ast.Tuple(elts=elements) | ast.List(elts=elements)):
                words = [self.word(element, kind) for element in elements]
                inside = isinstance(operator, ast.In)
                return lambda key: (value(key) in words) is inside
        raise self.error("only ==, != and `in (...)` compare dtypes and storages")

    def operand(self, node: ast.expr, kind: str) -> _Value:
        if isinstance(node, ast.Constant):
            word = self.word(node, kind)
            return lambda key: word
        other, value = self.property(node)
        if other != kind:
            raise self.error(f"{kind}(...) compared with {other}(...)")
        return value

    def word(self, node: ast.expr, kind: str) -> str:
        if not isinstance(node, ast.Constant) or node.value not in _WORDS[kind]:
            raise self.error(f"{ast.unparse(node)} is no {kind}; offered {', '.join(_WORDS[kind])}")
        return str(node.value)

    def property(self, node: ast.expr) -> tuple[str, _Value]:
        match node:
            case ast.Call(func=ast.Name(id=("dtype" | "storage") as kind), args=[ast.Name(id=slot)], keywords=[]):
                if slot not in self.slots:
                    raise self.error(f"{slot!r} is no slot; slots: {', '.join(self.slots)}")
                index = 0 if kind == "dtype" else 1
                return kind, lambda key: key[slot][index].value
        raise self.error(f"{ast.unparse(node)!r} is neither dtype(slot) nor storage(slot)")

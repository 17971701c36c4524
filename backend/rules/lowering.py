"""What rules write into: one Program in the making, and the values that graph nodes already have in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from ..builder import ProgramBuilder
from ..dtypes import DType
from ..errors import Unsupported
from ..options import CompileOptions
from ..program import Dim, HostDType
from .graph import Constant, find_constant, tensor_of

HOST_DTYPES: dict[torch.dtype, HostDType] = {
    torch.float32: HostDType.F32,
    torch.float16: HostDType.F16,
    torch.bfloat16: HostDType.BF16,
    torch.int64: HostDType.I64,
    torch.int32: HostDType.I32,
    torch.int8: HostDType.I8,
    torch.uint8: HostDType.U8,
    torch.bool: HostDType.BOOLEAN,
}
_MODEL_DTYPES = {torch.float32: DType.F32, torch.float16: DType.F16, torch.bfloat16: DType.F32}


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a rule did with a node: the nodes it consumed, and the kernels it called."""

    nodes: tuple[Node, ...]
    kernels: tuple[str, ...]
    pieces: int = 1


@dataclass(slots=True)
class Lowering:
    """Collects one Program. Everything a rule may ask of the graph or add to the Program goes through here.

    weights: real parameters and buffers by qualified name, where the exported program itself carries fake ones.
    """

    program: ExportedProgram
    options: CompileOptions
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    builder: ProgramBuilder = field(default_factory=ProgramBuilder)
    _values: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    _made: dict[Hashable, tuple[int, ...]] = field(default_factory=dict)
    _symbols: dict[sympy.Expr, Dim] = field(default_factory=dict)

    def constant(self, node: Node) -> Constant | None:
        """The constant a node stands for; None when it is computed, an input or mutated."""
        return find_constant(self.program, node, self.weights)

    def float_dtype(self, dtype: torch.dtype) -> DType:
        """Device dtype of a floating-point activation."""
        if dtype not in _MODEL_DTYPES:
            raise Unsupported(f"activation dtype {dtype}; offered float32, float16, bfloat16")
        return _MODEL_DTYPES[dtype] if self.options.compute_dtype == "model" else DType(self.options.compute_dtype)

    def operand(self, node: Node) -> int:
        """The one tensor that holds a node's value; a value not made here is an input of the Program."""
        if node not in self._values:
            value = tensor_of(node)
            tensor = self.builder.tensor(node.name, self.float_dtype(value.dtype), self.dims(value.shape))
            self._values[node] = (tensor,)
        pieces = self._values[node]
        if len(pieces) > 1:
            raise Unsupported(
                f"its input {node.name} is computed in {len(pieces)} column pieces; "
                "raise max_binding_bytes to join them"
            )
        return pieces[0]

    def result(self, node: Node) -> tuple[int, ...]:
        """The tensors that hold a node's value, side by side."""
        return self._values[node]

    def bind(self, node: Node, pieces: Sequence[int]) -> None:
        """Says which tensors hold a node's value."""
        self._values[node] = tuple(pieces)

    def once(self, key: Hashable, make: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """The tensors made under this key, made at the first request: shared work and shared constants."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def dims(self, shape: Sequence[int | torch.SymInt]) -> tuple[Dim, ...]:
        """A traced shape as Program dimensions."""
        return tuple(Dim(size) if isinstance(size, int) else self.symbolic(size) for size in shape)

    def symbolic(self, size: torch.SymInt) -> Dim:
        """A traced size: affine in one symbol, or a symbol of its own for any other expression."""
        expression = size.node.expr
        if expression.is_Integer:
            return Dim(int(expression))
        free = sorted(expression.free_symbols, key=str)
        if len(free) == 1:
            factor = expression.coeff(free[0])
            base = sympy.expand(expression - factor * free[0])
            if factor.is_Integer and base.is_Integer:
                ((_, index),) = self._symbol(free[0], size).terms
                return Dim(int(base), ((int(factor), index),))
        return self._symbol(expression, size)

    def integer_input(self, size: torch.SymInt) -> Dim:
        """The symbol that an integer argument gives a value: its own, whatever expression it traced as."""
        dim = self.symbolic(size)
        return (
            dim
            if dim.base == 0 and len(dim.terms) == 1 and dim.terms[0][0] == 1
            else self._symbol(size.node.expr, size)
        )

    def _symbol(self, expression: sympy.Expr, size: torch.SymInt) -> Dim:
        if expression not in self._symbols:
            known = {**size.node.shape_env.var_to_range, **self.program.range_constraints}
            bounds = bound_sympy(expression, {name: _relaxed(bounds) for name, bounds in known.items()})
            if not isinstance(bounds.upper, (int, sympy.Integer)) or bounds.upper >= 2**31:
                raise Unsupported(
                    f"dynamic dimension {expression} has no upper bound; give it one: torch.export.Dim(name, max=...)"
                )
            name = f"s{len(self._symbols)}"
            self._symbols[expression] = self.builder.symbol(name, int(bounds.lower), int(bounds.upper))
        return self._symbols[expression]


def _relaxed(bounds: ValueRanges[sympy.Expr]) -> ValueRanges[sympy.Expr]:
    """Undoes what torch.export does to keep 0 and 1 from specializing a graph: a lower bound raised to 2."""
    return ValueRanges(1, bounds.upper) if bounds.lower == 2 else bounds

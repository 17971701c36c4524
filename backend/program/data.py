"""What one delegate of a .pte computes, as frozen data. Mirrors serialization/program.fbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

from ..kernels.dtypes import DType, Storage

VERSION = 4
VERSIONS = (1, 2, 3, 4)  # read; serialization/README.md says what each added
ARENA_ALIGN = 256
SIZE_ALIGN = 16
FAULT_DIMS = (5,)  # of Program.faults: 1 + the call, the element, its value, the least and the largest allowed


class HostDType(Enum):
    """Element type of a method input or output as ExecuTorch passes it; the player converts on copy."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I8 = "i8"
    U8 = "u8"
    BOOLEAN = "boolean"


class Memory(Enum):
    """Where a tensor's bytes come from: planned scratch memory, named data found by content hash, or memory that keeps
    its contents between calls."""

    ARENA = "arena"
    CONSTANT = "constant"
    STATE = "state"


class SymbolOp(Enum):
    """How a symbol gets its value: from an input, or from earlier symbols as a * b or floor(a / b)."""

    GIVEN = "given"
    PRODUCT = "product"
    QUOTIENT = "quotient"


@dataclass(frozen=True, slots=True)
class Dim:
    """A dimension: base + sum(coefficient * symbol). terms are (coefficient, index into Program.symbols)."""

    base: int
    terms: tuple[tuple[int, int], ...] = ()

    def range(self, symbols: Sequence[Symbol]) -> tuple[int, int]:
        """Smallest and largest value over the symbols' ranges."""
        low = high = self.base
        for coefficient, index in self.terms:
            ends = (coefficient * symbols[index].min, coefficient * symbols[index].max)
            low, high = low + min(ends), high + max(ends)
        return low, high

    def value(self, symbol_values: Sequence[int]) -> int:
        """The dimension for one value per symbol."""
        return self.base + sum(coefficient * symbol_values[index] for coefficient, index in self.terms)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A size known at run time only; min and max are inclusive. a, b: operands of a derived symbol."""

    name: str
    min: int
    max: int
    op: SymbolOp = SymbolOp.GIVEN
    a: Dim = Dim(0)
    b: Dim = Dim(0)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One device allocation, or with alias_of >= 0 other dimensions of an earlier one.

    offset and size_bytes: see serialization/README.md. shared: the key under which the methods of one .pte share a
    state; each has its own when it is empty.
    """

    name: str
    dtype: DType
    storage: Storage
    dims: tuple[Dim, ...]
    memory: Memory
    offset: int
    size_bytes: int
    constant: str = ""
    alias_of: int = -1
    shared: str = ""


@dataclass(frozen=True, slots=True)
class Arg:
    """A tensor bound to a kernel's slot. An optional slot that is not bound has no Arg."""

    slot: str
    tensor: int


@dataclass(frozen=True, slots=True)
class Attr:
    """A kernel attribute. An integer may depend on symbols; int and float are different kinds."""

    name: str
    value: int | float | Dim


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel call. Calls run in order; the player finds the dependencies."""

    name: str
    kernel: str
    args: tuple[Arg, ...]
    attrs: tuple[Attr, ...] = ()
    debug_handles: tuple[int, ...] = ()

    def tensor(self, slot: str) -> int:
        """Index of the tensor bound to `slot`; KeyError when the slot is not bound."""
        return {arg.slot: arg.tensor for arg in self.args}[slot]


@dataclass(frozen=True, slots=True)
class Alternative:
    """Fused calls, and right after them the plain ones that they stand for: one of the two runs.

    The player takes the fused ones where each of them has an algorithm for the device and the shape.
    """

    first: int
    fused: int
    plain: int

    @property
    def fused_calls(self) -> range:
        return range(self.first, self.first + self.fused)

    @property
    def plain_calls(self) -> range:
        return range(self.first + self.fused, self.first + self.fused + self.plain)


@dataclass(frozen=True, slots=True)
class Input:
    """One delegate argument: a tensor, or an integer that gives a symbol its value. The other index is -1."""

    tensor: int
    symbol: int
    host_dtype: HostDType


@dataclass(frozen=True, slots=True)
class Check:
    """Integers of an input that index something: element offset + sum(i * strides), i below sizes, is in [min, max].

    An integer argument is one element, at 0. what: what they index, to name it in an error.
    """

    input: int
    min: Dim
    max: Dim
    what: str
    offset: Dim = Dim(0)
    sizes: tuple[Dim, ...] = ()
    strides: tuple[Dim, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """One delegate result: the tensors' last dimensions laid side by side."""

    tensors: tuple[int, ...]
    host_dtype: HostDType


@dataclass(frozen=True, slots=True)
class ProgramData:
    """The fields of a Program: everything the player needs besides the constants' bytes.

    faults: the tensor in which calls report an index that was computed on the device and lies outside; -1: none does.
    """

    producer: str
    arena_bytes: int
    symbols: tuple[Symbol, ...]
    tensors: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    alternatives: tuple[Alternative, ...] = ()
    checks: tuple[Check, ...] = ()
    faults: int = -1
    version: int = VERSION

    def plain_calls(self) -> list[int]:
        """The indices of the calls that run where no fused ones can: by themselves they compute everything."""
        fused = {index for item in self.alternatives for index in item.fused_calls}
        return [index for index in range(len(self.calls)) if index not in fused]


def size_bytes(dtype: DType, dims: Sequence[Dim], symbols: Sequence[Symbol]) -> int:
    """Bytes of a tensor at the symbols' maxima, rounded up to 16."""
    return size_bytes_of(dtype, [dim.range(symbols)[1] for dim in dims])


def size_bytes_of(dtype: DType, shape: Sequence[int]) -> int:
    """Bytes of a tensor of this shape, rounded up to 16."""
    n_bytes = (prod(shape) * dtype.bits + 7) // 8
    return -(-n_bytes // SIZE_ALIGN) * SIZE_ALIGN


def live_ranges(
    tensors: Sequence[Tensor],
    calls: Sequence[Call],
    *,
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    faults: int = -1,
) -> list[tuple[int, int] | None]:
    """Half-open [first, last) time a tensor's bytes matter; None when nothing names it. Aliases count for their base.

    Inputs are copied in at time 0, call i runs at time i + 1, outputs are copied out at time len(calls) + 1; faults
    are both.
    """
    uses: list[list[int]] = [[] for _ in tensors]
    for given in inputs:
        if given.tensor >= 0:
            uses[given.tensor].append(0)
    for time, call in enumerate(calls, start=1):
        for arg in call.args:
            uses[arg.tensor].append(time)
    for output in outputs:
        for tensor in output.tensors:
            uses[tensor].append(len(calls) + 1)
    if faults >= 0:
        uses[faults] += [0, len(calls) + 1]
    for index, item in enumerate(tensors):
        if item.alias_of >= 0:
            uses[item.alias_of].extend(uses[index])
    return [(min(times), max(times) + 1) if times else None for times in uses]

"""Builds a Program call by call: used by the rules, and by tests that need a small Program by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import xxhash

from ..errors import ProgramError
from ..kernels._generated.signatures import SIGNATURES
from ..kernels.dtypes import DType, Storage
from ..kernels.signature import Signature
from ..version import __version__
from .arena import Lifetime, plan_arena
from .checks import derived_range
from .constants import array_of, payload_of
from .data import (
    ARENA_ALIGN,
    FAULT_DIMS,
    Alternative,
    Arg,
    Attr,
    Call,
    Check,
    Dim,
    HostDType,
    Input,
    Memory,
    Output,
    Symbol,
    SymbolOp,
    Tensor,
    live_ranges,
    size_bytes,
)
from .model import Program

if TYPE_CHECKING:
    import numpy as np

    from .constants import ConstantData


class ProgramBuilder:
    """Collects tensors and calls; `build()` plans memory, packs the constants and verifies.

    Tensors are plain integers (indices into Program.tensors). Dtypes and storages are given as enums or by name, and a
    dimension as an integer or as the Dim that `symbol()` returned. Names are made unique by a suffix.
    signatures: the kernels that calls may name, and what each of them takes; by default this package's.
    """

    def __init__(self, signatures: Mapping[str, Signature] = SIGNATURES) -> None:
        self._signatures = signatures
        self._symbols: list[Symbol] = []
        self._tensors: list[Tensor] = []
        self._data: dict[int, ConstantData] = {}
        self._calls: list[Call] = []
        self._writes: list[frozenset[str]] = []  # by call, the slots it writes
        self._alternatives: tuple[Alternative, ...] = ()
        self._inputs: list[Input] = []
        self._outputs: list[Output] = []
        self._checks: list[tuple[int, int, Check]] = []  # tensor, symbol, and the check without its input
        self._faults = -1
        self._names: set[str] = set()

    def symbol(self, name: str, low: int, high: int) -> Dim:
        """Declares a run-time size in [low, high] and returns it as a dimension."""
        self._symbols.append(Symbol(name, low, high))
        return Dim(0, ((1, len(self._symbols) - 1),))

    def derived(self, op: SymbolOp, a: Dim, b: Dim) -> Dim:
        """Declares a * b or floor(a / b), operands not negative, and returns it as a dimension."""
        low, high = derived_range(op, a.range(self._symbols), b.range(self._symbols))
        self._symbols.append(Symbol(f"d{len(self._symbols)}", low, high, op, a, b))
        return Dim(0, ((1, len(self._symbols) - 1),))

    def tensor(
        self,
        name: str,
        dtype: DType | str,
        dims: Sequence[int | Dim],
        *,
        storage: Storage | str = Storage.BUFFER,
    ) -> int:
        """Declares an arena tensor."""
        return self._add(name, DType(dtype), dims, storage=Storage(storage), memory=Memory.ARENA)

    def constant(self, name: str, dtype: DType | str, dims: Sequence[int], *, data: ConstantData) -> int:
        """Declares a constant. data: its packed bytes or array, or a packer that build() runs once to get them."""
        index = self._add(name, DType(dtype), dims, storage=Storage.BUFFER, memory=Memory.CONSTANT)
        self._data[index] = data
        return index

    def packer(self, tensor: int) -> Callable[[], np.ndarray]:
        """What makes the array of a constant."""
        data = self._data[tensor]
        return lambda: array_of(data)

    def constant_alias(self, tensor: int, dims: Sequence[int]) -> int:
        """Declares other dimensions of a constant."""
        base = self._tensors[tensor]
        return self.constant(f"{base.name}.view", base.dtype, dims, data=self._data[tensor])

    def state(
        self, name: str, dtype: DType | str, dims: Sequence[int], *, data: ConstantData | None = None, shared: str = ""
    ) -> int:
        """Declares a buffer that keeps its contents between calls. data: its first contents; None: zeros.

        shared: the key under which the methods of one .pte share it; "": this one has its own.
        """
        index = self._add(name, DType(dtype), dims, storage=Storage.BUFFER, memory=Memory.STATE)
        self._tensors[index] = replace(self._tensors[index], shared=shared)
        if data is not None:
            self._data[index] = data
        return index

    def alias(self, tensor: int, dims: Sequence[int | Dim]) -> int:
        """Declares other dimensions of the same elements. tensor: a dense arena or state buffer."""
        base = self._tensors[tensor]
        root = base.alias_of if base.alias_of >= 0 else tensor
        full = _full(dims)
        name = self._unique(f"{self._tensors[root].name}.view")
        size = size_bytes(base.dtype, full, self._symbols)
        self._tensors.append(Tensor(name, base.dtype, base.storage, full, base.memory, 0, size, alias_of=root))
        return len(self._tensors) - 1

    def call(
        self,
        kernel: str,
        args: Mapping[str, int | None],
        attrs: Mapping[str, int | float | Dim] | None = None,
        *,
        name: str = "",
        debug_handles: Sequence[int] = (),
    ) -> None:
        """Appends a kernel call. args: slot -> tensor, None for an optional slot that is not bound.

        Raises ProgramError where the kernel has no such slots, attributes, dtypes or storages.
        """
        unique = self._unique(name or kernel)
        call, writes = self.make_call(kernel, args, attrs or {}, name=unique, debug_handles=debug_handles)
        self._writes.append(writes)
        self._calls.append(call)

    def make_call(
        self,
        kernel: str,
        args: Mapping[str, int | None],
        attrs: Mapping[str, int | float | Dim],
        *,
        name: str,
        debug_handles: Sequence[int] = (),
    ) -> tuple[Call, frozenset[str]]:
        """A call that is in no Program yet, with its slots in the kernel's order, and the bound slots that it writes.

        Raises as call() does.
        """
        signature = self._signatures.get(kernel)
        if signature is None:
            raise ProgramError(f"{name}: no kernel {kernel!r}; offered {', '.join(self._signatures)}")
        bound = {slot: tensor for slot, tensor in args.items() if tensor is not None}
        infos = {slot: self._tensors[tensor] for slot, tensor in bound.items()}
        values = tuple(Attr(key, constant_or_dim(value)) for key, value in attrs.items())
        signature.check(
            {slot: (info.dtype, info.storage) for slot, info in infos.items()},
            {attr.name: attr.value for attr in values},
        )
        ordered = tuple(Arg(slot.name, bound[slot.name]) for slot in signature.slots if slot.name in bound)
        call = Call(name, kernel, ordered, values, tuple(debug_handles))
        return call, signature.writes & bound.keys()

    def input(self, tensor: int, host_dtype: HostDType | str | None = None) -> None:
        """Appends a delegate argument; its host dtype defaults to the tensor's."""
        self._inputs.append(Input(tensor, -1, self._host(tensor, host_dtype)))

    def input_symbol(self, dim: Dim) -> None:
        """Appends an integer argument that gives a symbol its value."""
        self._inputs.append(Input(-1, dim.terms[0][1], HostDType.I64))

    def check(
        self,
        low: Dim | int,
        high: Dim | int,
        what: str,
        *,
        symbol: Dim | None = None,
        tensor: int = -1,
        offset: Dim | int = 0,
        sizes: Sequence[int | Dim] = (),
        strides: Sequence[int | Dim] = (),
    ) -> None:
        """Asks for integers in [low, high]: of an integer input's symbol, or elements of an input."""
        bounds = _full((low, high, offset))
        item = Check(-1, bounds[0], bounds[1], what, bounds[2], _full(sizes), _full(strides))
        self._checks.append((tensor, -1 if symbol is None else symbol.terms[0][1], item))

    def faults(self) -> int:
        """The tensor in which calls report indices outside: bind it to a slot that such a call writes in place."""
        if self._faults < 0:
            self._faults = self.tensor("faults", DType.I32, FAULT_DIMS)
        return self._faults

    def output(self, tensors: int | Sequence[int], host_dtype: HostDType | str | None = None) -> None:
        """Appends a delegate result: one tensor, or column pieces laid side by side."""
        pieces = (tensors,) if isinstance(tensors, int) else tuple(tensors)
        self._outputs.append(Output(pieces, self._host(pieces[0], host_dtype)))

    def tensor_info(self, tensor: int) -> Tensor:
        """The declared tensor; offset and constant key are filled in by build()."""
        return self._tensors[tensor]

    def range_of(self, dim: Dim) -> tuple[int, int]:
        """The smallest and the largest value of a dimension."""
        return dim.range(self._symbols)

    def size_bytes(self, dtype: DType, dims: Sequence[int | Dim]) -> int:
        """Bytes a tensor would have at the symbols' maxima."""
        return size_bytes(dtype, _full(dims), self._symbols)

    def build(self, *, reuse_memory: bool = True, drop_unused: bool = False) -> tuple[Program, dict[str, bytes]]:
        """Returns the verified Program and its constants' bytes by key.

        reuse_memory=False gives every arena tensor its own bytes, so that all of them can be read back after a run.
        drop_unused=True leaves out calls whose results no output and no state needs, and tensors that nothing names.
        """
        if drop_unused:
            self._drop_unused()
        constants: dict[str, bytes] = {}
        tensors = list(self._tensors)
        for index, data in self._data.items():
            payload = payload_of(tensors[index], data)
            key = xxhash.xxh3_128_hexdigest(payload)
            constants[key] = payload
            tensors[index] = replace(tensors[index], constant=key)
        self._number_faults()
        offsets, arena_bytes = self._plan(reuse_memory)
        for index, offset in offsets.items():
            tensors[index] = replace(tensors[index], offset=offset)
        for index, tensor in enumerate(tensors):
            if tensor.alias_of >= 0:
                base = tensors[tensor.alias_of]
                tensors[index] = replace(tensor, offset=base.offset, constant=base.constant)
        program = Program(
            producer=f"zeropoint {__version__}",
            arena_bytes=arena_bytes,
            symbols=tuple(self._symbols),
            tensors=tuple(tensors),
            calls=tuple(self._calls),
            inputs=tuple(self._inputs),
            outputs=tuple(self._outputs),
            alternatives=self._alternatives,
            checks=self._bound_checks(),
            faults=self._faults,
        )
        program.verify()
        return program, constants

    def _plan(self, reuse_memory: bool) -> tuple[dict[int, int], int]:
        ranges = live_ranges(
            self._tensors, self._calls, inputs=self._inputs, outputs=self._outputs, faults=self._faults
        )
        planned, lifetimes = [], []
        for index, (tensor, live) in enumerate(zip(self._tensors, ranges, strict=True)):
            if live is None or tensor.memory is not Memory.ARENA or tensor.storage is not Storage.BUFFER:
                continue
            if tensor.alias_of >= 0:
                continue
            first, last = live if reuse_memory else (0, len(self._calls) + 2)
            planned.append(index)
            lifetimes.append(Lifetime(first, last, tensor.size_bytes))
        arena = plan_arena(lifetimes, align=ARENA_ALIGN)
        return dict(zip(planned, arena.offsets, strict=True)), arena.size_bytes

    def _bound_checks(self) -> tuple[Check, ...]:
        """The checks of what turned out to be an input, each once."""
        root = self._roots()
        tensors = {root[item.tensor]: index for index, item in enumerate(self._inputs) if item.tensor >= 0}
        symbols = {item.symbol: index for index, item in enumerate(self._inputs) if item.symbol >= 0}
        found: dict[Check, Check] = {}
        for tensor, symbol, check in self._checks:
            at = symbols[symbol] if tensor < 0 else tensors[root[tensor]]
            found.setdefault(replace(check, input=at, what=""), replace(check, input=at))
        return tuple(found.values())

    def _number_faults(self) -> None:
        """Tells each call that reports faults its own index, which it reports."""
        for index, call in enumerate(self._calls):
            if any(arg.tensor == self._faults for arg in call.args):
                attrs = tuple(Attr("call", index) if attr.name == "call" else attr for attr in call.attrs)
                self._calls[index] = replace(call, attrs=attrs)

    def needed_calls(self) -> list[int]:
        """The indices of the calls that an output, a state or the faults need: what build(drop_unused=True) keeps.

        Walks back from them; what a kept call reads or writes is needed before it.
        """
        root = self._roots()
        needed = {root[tensor] for output in self._outputs for tensor in output.tensors}
        needed |= {index for index, tensor in enumerate(self._tensors) if tensor.memory is Memory.STATE}
        needed.add(self._faults)
        kept: list[int] = []
        for index in reversed(range(len(self._calls))):
            call = self._calls[index]
            if any(arg.slot in self._writes[index] and root[arg.tensor] in needed for arg in call.args):
                kept.append(index)
                needed |= {root[arg.tensor] for arg in call.args}
        return kept[::-1]

    def made_calls(self) -> list[tuple[Call, frozenset[str]]]:
        """The calls so far, each with the slots it writes."""
        return list(zip(self._calls, self._writes, strict=True))

    def replace_calls(
        self, calls: Sequence[tuple[Call, frozenset[str]]], alternatives: Sequence[Alternative] = ()
    ) -> None:
        """Puts other calls in the place of all: what fusion makes of them. With alternatives none may be unused."""
        self._calls, self._writes = [call for call, _ in calls], [writes for _, writes in calls]
        self._alternatives = tuple(alternatives)

    def unique_call(self, name: str) -> str:
        """A name that nothing has yet."""
        return self._unique(name)

    def outputs(self) -> set[int]:
        """The buffers that outputs hand out, aliases resolved."""
        root = self._roots()
        return {root[tensor] for output in self._outputs for tensor in output.tensors}

    def n_calls(self) -> int:
        """How many calls there are so far."""
        return len(self._calls)

    def _roots(self) -> list[int]:
        return [index if tensor.alias_of < 0 else tensor.alias_of for index, tensor in enumerate(self._tensors)]

    def _drop_unused(self) -> None:
        root = self._roots()
        needed = self.needed_calls()
        assert not self._alternatives or len(needed) == len(self._calls)
        self._calls = [self._calls[index] for index in needed]
        named = {arg.tensor for call in self._calls for arg in call.args}
        named |= {tensor for output in self._outputs for tensor in output.tensors}
        named |= {item.tensor for item in self._inputs if item.tensor >= 0} | ({self._faults} - {-1})
        named |= {tensor for tensor, _, _ in self._checks if tensor >= 0}
        named |= {root[tensor] for tensor in named}
        self._renumber([index for index in range(len(self._tensors)) if index in named])

    def _renumber(self, kept: Sequence[int]) -> None:
        """Keeps these tensors alone."""
        new = {old: index for index, old in enumerate(kept)}
        new[-1] = -1
        self._tensors = [replace(self._tensors[old], alias_of=new[self._tensors[old].alias_of]) for old in kept]
        self._data = {new[old]: data for old, data in self._data.items() if old in new}
        self._calls = [
            replace(call, args=tuple(Arg(arg.slot, new[arg.tensor]) for arg in call.args)) for call in self._calls
        ]
        self._inputs = [replace(item, tensor=new[item.tensor]) for item in self._inputs]
        self._checks = [(new[tensor], symbol, check) for tensor, symbol, check in self._checks]
        self._faults = new[self._faults]
        self._outputs = [replace(item, tensors=tuple(new[tensor] for tensor in item.tensors)) for item in self._outputs]

    def _add(self, name: str, dtype: DType, dims: Sequence[int | Dim], *, storage: Storage, memory: Memory) -> int:
        full = _full(dims)
        n_bytes = size_bytes(dtype, full, self._symbols)
        self._tensors.append(Tensor(self._unique(name), dtype, storage, full, memory, 0, n_bytes))
        return len(self._tensors) - 1

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            unique, count = f"{name}_{count}", count + 1
        self._names.add(unique)
        return unique

    def _host(self, tensor: int, host_dtype: HostDType | str | None) -> HostDType:
        return HostDType(host_dtype if host_dtype is not None else self._tensors[tensor].dtype.value)


def _full(dims: Sequence[int | Dim]) -> tuple[Dim, ...]:
    return tuple(Dim(dim) if isinstance(dim, int) else dim for dim in dims)


def constant_or_dim(value: int | float | Dim) -> int | float | Dim:
    """An attribute's value: a dimension without symbols is a number."""
    return value.base if isinstance(value, Dim) and not value.terms else value

"""Executes a Program with the kernels' PyTorch references on the CPU: what the device must give, up to rounding.

    states = {}
    first = run_reference(program, constants, [x], states)   # caches start as the Program says
    second = run_reference(program, constants, [x], states)  # and keep their contents

Every tensor has memory of its own. What nothing has written yet is NaN in floats and the smallest number in integers,
so that a call which reads it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..errors import ProgramError
from ..kernels.dtypes import DType
from ..program import HostDType, Memory, SymbolOp
from ..program.constants import Payloads
from ..program.indices import refuse_faults, refuse_outside
from ..references import OutputSpec, find_reference, find_written

if TYPE_CHECKING:
    from ..program import Call, Program, Tensor

# i4: the packed bytes, two elements each along the last dimension.
DEVICE_TORCH = {
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.I32: torch.int32,
    DType.I8: torch.int8,
    DType.U8: torch.uint8,
    DType.I4: torch.uint8,
}
HOST_TORCH = {
    HostDType.F32: torch.float32,
    HostDType.F16: torch.float16,
    HostDType.BF16: torch.bfloat16,
    HostDType.I64: torch.int64,
    HostDType.I32: torch.int32,
    HostDType.I8: torch.int8,
    HostDType.U8: torch.uint8,
    HostDType.BOOLEAN: torch.bool,
}


@dataclass(frozen=True, slots=True)
class Interpretation:
    """One run: the outputs in their host dtypes, every tensor as the run left it, and the states by tensor name."""

    outputs: tuple[torch.Tensor, ...]
    tensors: tuple[torch.Tensor, ...]
    states: dict[str, torch.Tensor]
    symbols: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What a call puts into one slot. mask: the elements it writes; None: all of them."""

    values: torch.Tensor
    mask: torch.Tensor | None

    def store(self, target: torch.Tensor) -> None:
        """Writes the elements into the slot's tensor, in its dtype."""
        values = self.values.to(target.dtype).reshape(target.shape)
        target.copy_(values if self.mask is None else torch.where(self.mask, values, target))


def run_reference(
    program: Program,
    constants: Payloads,
    inputs: Sequence[torch.Tensor | int],
    states: dict[str, torch.Tensor] | None = None,
) -> Interpretation:
    """Runs a Program once, of alternatives the plain calls.

    inputs: in the Program's order and in their host dtypes; an integer gives a symbol its value. states: contents of
    state tensors by name, updated in place; those that are missing start with the Program's first contents.
    Raises ProgramError for inputs that the Program does not take, and for indices outside what they index.
    """
    symbols = bind_symbols(program, inputs)
    refuse_outside(program, inputs, symbols)
    tensors = allocate(program, constants, symbols, {} if states is None else states)
    for index, (item, given) in enumerate(zip(program.inputs, inputs, strict=True)):
        if item.tensor >= 0:
            assert isinstance(given, torch.Tensor)  # or bind_symbols would have refused it
            tensors[item.tensor].copy_(to_device(given, item.host_dtype, where=f"input[{index}]"))
    if program.faults >= 0:
        tensors[program.faults].zero_()
    for call in (program.calls[index] for index in program.plain_calls()):
        slots = {arg.slot: tensors[arg.tensor] for arg in call.args}
        for slot, written in evaluate(call, slots, symbols).items():
            written.store(slots[slot])
    if program.faults >= 0:
        refuse_faults(program, tensors[program.faults].tolist())
    outputs = tuple(
        to_host([tensors[index] for index in output.tensors], output.host_dtype) for output in program.outputs
    )
    kept = {item.name: tensors[index] for index, item in enumerate(program.tensors) if _is_state(item)}
    if states is not None:
        states.update(kept)
    return Interpretation(outputs, tuple(tensors), kept, symbols)


def evaluate(call: Call, slots: Mapping[str, torch.Tensor], symbols: Sequence[int]) -> dict[str, Written]:
    """What a call writes, by slot, given what all of its slots hold before it."""
    attrs = attributes(call, symbols)
    # A reference returns the slots that the kernel writes: which those are is known after it has run.
    specs = {slot: OutputSpec(tuple(tensor.shape), tensor.dtype) for slot, tensor in slots.items()}
    written = find_written(call.kernel)
    results = find_reference(call.kernel)(slots, attrs, specs)
    masks = {} if written is None else written(slots, attrs, specs)
    return {slot: Written(values, masks.get(slot)) for slot, values in results.items()}


def attributes(call: Call, symbols: Sequence[int]) -> dict[str, int | float]:
    """A call's attributes as numbers."""
    return {
        attr.name: attr.value if isinstance(attr.value, (int, float)) else attr.value.value(symbols)
        for attr in call.attrs
    }


def bind_symbols(program: Program, inputs: Sequence[torch.Tensor | int]) -> tuple[int, ...]:
    """One value per symbol, from the inputs' shapes and integers. Raises ProgramError where they do not fit."""
    given = _given_symbols(program, inputs)
    bound: list[int] = []
    for index, symbol in enumerate(program.symbols):
        if symbol.op is SymbolOp.GIVEN:
            value = given.get(index, -1)
        else:
            a, b = symbol.a.value(bound), symbol.b.value(bound)
            value = a * b if symbol.op is SymbolOp.PRODUCT else a // b
        if not symbol.min <= value <= symbol.max:
            raise ProgramError(f"symbol {symbol.name}: {value}; need [{symbol.min}, {symbol.max}]")
        bound.append(value)
    for number, (item, array) in enumerate(zip(program.inputs, inputs, strict=True)):
        if not isinstance(array, torch.Tensor):
            continue
        shape, dtype = [dim.value(bound) for dim in program.tensors[item.tensor].dims], HOST_TORCH[item.host_dtype]
        if list(array.shape) != shape or array.dtype is not dtype:
            raise ProgramError(f"input[{number}]: {array.dtype} {list(array.shape)}; need {dtype} {shape}")
    return tuple(bound)


def _given_symbols(program: Program, inputs: Sequence[torch.Tensor | int]) -> dict[int, int]:
    if len(inputs) != len(program.inputs):
        raise ProgramError(f"{len(inputs)} inputs; the program has {len(program.inputs)}")
    values: dict[int, int] = {}
    for number, (item, given) in enumerate(zip(program.inputs, inputs, strict=True)):
        if isinstance(given, int) != (item.symbol >= 0):
            need = "an integer" if item.symbol >= 0 else "a tensor"
            raise ProgramError(f"input[{number}]: {type(given).__name__}; need {need}")
        if isinstance(given, int):
            values[item.symbol] = given
            continue
        for dim, size in zip(program.tensors[item.tensor].dims, given.shape, strict=False):
            if len(dim.terms) == 1:
                coefficient, symbol = dim.terms[0]
                values.setdefault(symbol, (size - dim.base) // coefficient)
    return values


def allocate(
    program: Program, constants: Payloads, symbols: Sequence[int], states: Mapping[str, torch.Tensor]
) -> list[torch.Tensor]:
    """The Program's tensors, shaped for these symbols: aliases share elements, states are the given ones."""
    flat: dict[int, torch.Tensor] = {}
    tensors: list[torch.Tensor] = []
    for index, item in enumerate(program.tensors):
        shape = shape_of(item, symbols)
        root = item.alias_of if item.alias_of >= 0 else index
        if root not in flat:
            flat[root] = _first_contents(item, math.prod(shape), constants, states)
        tensors.append(flat[root][: math.prod(shape)].view(shape))
    return tensors


def shape_of(tensor: Tensor, symbols: Sequence[int]) -> tuple[int, ...]:
    """Dimensions of what holds a tensor's elements: i4 as bytes, two elements each along the last dimension."""
    shape = tuple(dim.value(symbols) for dim in tensor.dims)
    return shape if tensor.dtype is not DType.I4 else (*shape[:-1], shape[-1] // 2)


def to_device(value: torch.Tensor, host_dtype: HostDType, *, where: str = "input") -> torch.Tensor:
    """A host tensor in the values the device holds. Raises ProgramError for an i64 beyond 32 bits."""
    if host_dtype is HostDType.I64 and value.numel() and int(value.abs().max()) >= 2**31:
        raise ProgramError(f"{where}: an i64 value beyond 32 bits; the device has i32")
    return value.float() if host_dtype is HostDType.BF16 else value


def to_host(pieces: Sequence[torch.Tensor], host_dtype: HostDType) -> torch.Tensor:
    """An output from the device tensors that hold it side by side. A copy."""
    value = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim=-1)
    return value.to(HOST_TORCH[host_dtype], copy=True)


def constant_values(data: bytes | memoryview, dtype: DType, count: int) -> torch.Tensor:
    """The first elements of a constant, flat; of i4 the bytes. A copy."""
    torch_dtype = DEVICE_TORCH[dtype]
    size = count * torch_dtype.itemsize
    return torch.frombuffer(bytearray(data[:size]), dtype=torch_dtype) if size else torch.empty(0, dtype=torch_dtype)


def first_state(item: Tensor, count: int, constants: Payloads) -> torch.Tensor:
    """What a state holds before the first run, flat."""
    if item.constant:
        return constant_values(constants[item.constant], item.dtype, count)
    return torch.zeros(count, dtype=DEVICE_TORCH[item.dtype])


def _first_contents(item: Tensor, count: int, constants: Payloads, states: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if item.memory is Memory.CONSTANT:
        return constant_values(constants[item.constant], item.dtype, count)
    if item.memory is Memory.STATE:
        return states[item.name].flatten().clone() if item.name in states else first_state(item, count, constants)
    dtype = DEVICE_TORCH[item.dtype]
    return torch.full((count,), math.nan if dtype.is_floating_point else torch.iinfo(dtype).min, dtype=dtype)


def _is_state(item: Tensor) -> bool:
    return item.memory is Memory.STATE and item.alias_of < 0

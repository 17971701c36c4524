"""What Program.verify() asks of checks of indices and of faults, and what a check asks of an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ProgramError
from ..kernels.dtypes import DType, Storage
from .data import FAULT_DIMS, Check, Dim, HostDType, Memory, ProgramData

if TYPE_CHECKING:
    import torch


_INTEGERS = (HostDType.I64, HostDType.I32, HostDType.I8, HostDType.U8, HostDType.BOOLEAN)
_MAX_RANK, _MAX_VALUE = 8, 2**31 - 1


def check_indices(program: ProgramData) -> None:
    """Raises ProgramError where a check names no integers of an input, or faults no scratch tensor for them."""
    for index, check in enumerate(program.checks):
        where = f"check[{index}]"
        if not 0 <= check.input < len(program.inputs):
            raise ProgramError(f"{where}: input {check.input}; the program has {len(program.inputs)}")
        dtype = program.inputs[check.input].host_dtype
        if dtype not in _INTEGERS:
            raise ProgramError(f"{where}: input {check.input} is {dtype.value}; need integers")
        if len(check.sizes) != len(check.strides) or len(check.sizes) > _MAX_RANK:
            raise ProgramError(
                f"{where}: {len(check.sizes)} sizes, {len(check.strides)} strides; need as many, at most {_MAX_RANK}"
            )
        for dim in (check.min, check.max, check.offset, *check.strides):
            _check_range(program, where, dim, -_MAX_VALUE)
        for dim in check.sizes:
            _check_range(program, where, dim, 0)
    _check_faults(program)


def _check_range(program: ProgramData, where: str, dim: Dim, least: int) -> None:
    indices = [index for _, index in dim.terms]
    if any(not 0 <= index < len(program.symbols) for index in indices) or len(set(indices)) != len(indices):
        raise ProgramError(f"{where}: symbols {indices}; need distinct indices below {len(program.symbols)}")
    low, high = dim.range(program.symbols)
    if low < least or high > _MAX_VALUE:
        raise ProgramError(f"{where}: range [{low}, {high}]; need [{least}, {_MAX_VALUE}]")


def _check_faults(program: ProgramData) -> None:
    if program.faults == -1:
        return
    if not 0 <= program.faults < len(program.tensors):
        raise ProgramError(f"faults: tensor {program.faults}; the program has {len(program.tensors)}")
    tensor = program.tensors[program.faults]
    scratch = tensor.memory is Memory.ARENA and tensor.storage is Storage.BUFFER and tensor.alias_of < 0
    if not scratch or tensor.dtype is not DType.I32 or tensor.dims != tuple(map(Dim, FAULT_DIMS)):
        raise ProgramError(f"faults: tensor {tensor.name}; need an arena buffer i32{list(FAULT_DIMS)}, no alias")
    if any(program.faults == item.tensor for item in program.inputs):
        raise ProgramError(f"faults: tensor {tensor.name} is an input, too")


def refuse_outside(program: ProgramData, inputs: Sequence[torch.Tensor | int], symbols: Sequence[int]) -> None:
    """Raises ProgramError for the first index among the inputs that lies outside, as the player does."""
    for check in program.checks:
        given, least, largest = inputs[check.input], check.min.value(symbols), check.max.value(symbols)
        for place in _places(check, symbols):
            value = given if isinstance(given, int) else int(given.flatten()[place])
            if not least <= value <= largest:
                where = f"input[{check.input}] {_name(program, check)}: element {place}"
                raise ProgramError(f"{where} is {value}; {check.what} are {least} to {largest}")


def _places(check: Check, symbols: Sequence[int]) -> list[int]:
    places = [check.offset.value(symbols)]
    for size, stride in zip(check.sizes, check.strides, strict=True):
        step = stride.value(symbols)
        places = [place + index * step for place in places for index in range(size.value(symbols))]
    return places


def _name(program: ProgramData, check: Check) -> str:
    item = program.inputs[check.input]
    return program.symbols[item.symbol].name if item.symbol >= 0 else program.tensors[item.tensor].name


def refuse_faults(program: ProgramData, faults: Sequence[int]) -> None:
    """Raises ProgramError where a call has reported an index that it was given."""
    place, element, value, least, largest = faults
    if place:
        call = program.calls[place - 1]
        raise ProgramError(
            f"call[{place - 1}] {call.name}: element {element}, computed on the device, is {value}; "
            f"need {least} to {largest}"
        )

"""Program.verify(): the invariants of serialization/README.md, in its order."""

from __future__ import annotations

import math
import re

from ..errors import ProgramError
from ..kernels.dtypes import DType, Storage
from .alternatives import check_alternatives
from .arena import Lifetime, overlap_in_time
from .data import (
    ARENA_ALIGN,
    VERSIONS,
    Dim,
    HostDType,
    Memory,
    ProgramData,
    Symbol,
    SymbolOp,
    Tensor,
    live_ranges,
    size_bytes,
)
from .indices import check_indices

MAX_ELEMENTS = 2**31 - 1
MAX_RANK = 8
MAX_STATE_NAME = 256  # bytes; methods share states by key, before version 4 by name
CONVERSIONS: dict[HostDType, tuple[DType, ...]] = {
    HostDType.F32: (DType.F32, DType.F16),
    HostDType.F16: (DType.F16, DType.F32),
    HostDType.BF16: (DType.F32, DType.F16),
    HostDType.I64: (DType.I32,),
    HostDType.I32: (DType.I32,),
    HostDType.I8: (DType.I8,),
    HostDType.U8: (DType.U8,),
    HostDType.BOOLEAN: (DType.U8,),
}


def verify(program: ProgramData) -> None:
    """Raises ProgramError at the first broken invariant."""
    if program.version not in VERSIONS:
        known = ", ".join(map(str, VERSIONS))
        raise ProgramError(f"program: version {program.version}; this package knows {known}; export again")
    _check_symbols(program)
    for index, tensor in enumerate(program.tensors):
        where = f"tensor[{index}] {tensor.name}"
        _check_tensor(program, where, tensor)
        if tensor.alias_of != -1:
            _check_alias(program, where, index, tensor)
    _check_unique("tensor", [tensor.name for tensor in program.tensors])
    _check_unique("state shared under the", [tensor.shared for tensor in program.tensors if tensor.shared])
    _check_calls(program)
    _check_inputs(program)
    _check_outputs(program)
    check_alternatives(program)
    check_indices(program)
    _check_memory(program)


def _check_symbols(program: ProgramData) -> None:
    _check_unique("symbol", [symbol.name for symbol in program.symbols])
    for index, symbol in enumerate(program.symbols):
        if not 0 <= symbol.min <= symbol.max <= MAX_ELEMENTS:
            raise ProgramError(
                f"symbol[{index}] {symbol.name}: range [{symbol.min}, {symbol.max}]; "
                f"need 0 <= min <= max <= {MAX_ELEMENTS}"
            )
    for index, symbol in enumerate(program.symbols):
        if symbol.op is not SymbolOp.GIVEN:
            _check_derived(program, f"symbol[{index}] {symbol.name}", index, symbol)
        elif not any(_gives(program, item.tensor, item.symbol, index) for item in program.inputs):
            raise ProgramError(f"symbol[{index}] {symbol.name}: no input gives it a value")


def _check_derived(program: ProgramData, where: str, index: int, symbol: Symbol) -> None:
    """A product or quotient of earlier symbols, whose range it has."""
    for operand in (symbol.a, symbol.b):
        _check_dim(program, where, operand)
        if any(term[1] >= index for term in operand.terms):
            raise ProgramError(f"{where}: derived from a later symbol; need indices below {index}")
    low, high = derived_range(symbol.op, symbol.a.range(program.symbols), symbol.b.range(program.symbols))
    if (symbol.min, symbol.max) != (low, high):
        raise ProgramError(f"{where}: range [{symbol.min}, {symbol.max}]; its operands give [{low}, {high}]")


def derived_range(op: SymbolOp, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Range of a * b or floor(a / b), of operands that are not negative. Raises ProgramError on a divisor of 0."""
    if op is SymbolOp.PRODUCT:
        return a[0] * b[0], a[1] * b[1]
    if b[0] < 1:
        raise ProgramError(f"symbol: divided by [{b[0]}, {b[1]}]; need at least 1")
    return a[0] // b[1], a[1] // b[0]


def _gives(program: ProgramData, tensor: int, symbol: int, wanted: int) -> bool:
    """Whether an input names the symbol directly or has a dimension of that symbol alone."""
    if symbol == wanted:
        return True
    if not 0 <= tensor < len(program.tensors):
        return False
    return any(len(dim.terms) == 1 and dim.terms[0][1] == wanted for dim in program.tensors[tensor].dims)


def _check_tensor(program: ProgramData, where: str, tensor: Tensor) -> None:
    if tensor.dtype is DType.NONE or tensor.storage is Storage.NONE:
        raise ProgramError(
            f"{where}: dtype {tensor.dtype.value}, storage {tensor.storage.value}; none is no allocation"
        )
    if len(tensor.dims) > MAX_RANK:
        raise ProgramError(f"{where}: {len(tensor.dims)} dimensions; at most {MAX_RANK}")
    for axis, dim in enumerate(tensor.dims):
        _check_dim(program, f"{where}: dim[{axis}]", dim)
    if tensor.dtype is DType.I4 and (not tensor.dims or tensor.dims[-1].terms or tensor.dims[-1].base % 2):
        raise ProgramError(f"{where}: i4 needs a static, even last dimension")
    n_elements = math.prod(dim.range(program.symbols)[1] for dim in tensor.dims)
    if n_elements > MAX_ELEMENTS:
        raise ProgramError(f"{where}: {n_elements} elements; at most {MAX_ELEMENTS}")
    expected = size_bytes(tensor.dtype, tensor.dims, program.symbols)
    if tensor.size_bytes != expected:
        raise ProgramError(f"{where}: size_bytes {tensor.size_bytes}; its dtype and dimensions need {expected}")
    if tensor.shared and (tensor.memory is not Memory.STATE or tensor.alias_of != -1):
        raise ProgramError(f"{where}: shared under {tensor.shared!r}; only a state that is no alias is shared")
    if tensor.memory is Memory.CONSTANT:
        _check_constant(where, tensor, program.version)
    elif tensor.memory is Memory.STATE:
        _check_state(where, tensor, program.version)
    else:
        _check_arena(program, where, tensor)


def _check_dim(program: ProgramData, where: str, dim: Dim) -> None:
    indices = [index for _, index in dim.terms]
    if any(not 0 <= index < len(program.symbols) for index in indices) or len(set(indices)) != len(indices):
        raise ProgramError(f"{where}: symbols {indices}; need distinct indices below {len(program.symbols)}")
    if any(coefficient == 0 for coefficient, _ in dim.terms):
        raise ProgramError(f"{where}: a coefficient is 0; leave the term out")
    low, high = dim.range(program.symbols)
    if low < 0 or high > MAX_ELEMENTS:
        raise ProgramError(f"{where}: range [{low}, {high}]; need [0, {MAX_ELEMENTS}]")


def _check_key(where: str, tensor: Tensor, version: int) -> None:
    n_digits = 32 if version >= 4 else 64  # XXH3-128; sha256
    if not re.fullmatch(f"[0-9a-f]{{{n_digits}}}", tensor.constant):
        raise ProgramError(f"{where}: constant key {tensor.constant!r}; need {n_digits} lower-case hexadecimal digits")


def _check_constant(where: str, tensor: Tensor, version: int) -> None:
    _check_key(where, tensor, version)
    if tensor.storage is not Storage.BUFFER or tensor.offset or any(dim.terms for dim in tensor.dims):
        raise ProgramError(f"{where}: a constant is a buffer with offset 0 and no symbols")


def _check_state(where: str, tensor: Tensor, version: int) -> None:
    if tensor.constant:
        _check_key(where, tensor, version)
    varies = tensor.alias_of == -1 and any(dim.terms for dim in tensor.dims)
    if tensor.storage is not Storage.BUFFER or tensor.offset or varies:
        raise ProgramError(f"{where}: a state is a buffer with offset 0 and no symbols")
    n_bytes = len((tensor.shared if version >= 4 else tensor.name).encode())
    if tensor.alias_of == -1 and n_bytes > MAX_STATE_NAME:
        raise ProgramError(f"{where}: shared under a key of {n_bytes} bytes; at most {MAX_STATE_NAME}")


def _check_alias(program: ProgramData, where: str, index: int, tensor: Tensor) -> None:
    if not 0 <= tensor.alias_of < index:
        raise ProgramError(f"{where}: alias of tensor {tensor.alias_of}; need an earlier one")
    base = program.tensors[tensor.alias_of]
    if base.alias_of != -1 or base.storage is not Storage.BUFFER or tensor.storage is not Storage.BUFFER:
        raise ProgramError(f"{where}: alias of {base.name}, which is an alias or an image; need a buffer")
    same = (base.dtype, base.memory, base.offset, base.constant)
    if (tensor.dtype, tensor.memory, tensor.offset, tensor.constant) != same or tensor.memory is Memory.CONSTANT:
        raise ProgramError(f"{where}: alias of {base.name}, which differs in dtype, memory or offset, or is constant")
    if tensor.size_bytes > base.size_bytes:
        raise ProgramError(
            f"{where}: {tensor.size_bytes} bytes; {base.name}, which it is an alias of, has {base.size_bytes}"
        )


def _check_arena(program: ProgramData, where: str, tensor: Tensor) -> None:
    if tensor.constant:
        raise ProgramError(f"{where}: arena memory with constant key {tensor.constant!r}; leave the key empty")
    if tensor.storage is Storage.IMAGE:
        if tensor.offset or tensor.dtype is DType.I4:
            raise ProgramError(f"{where}: an image has offset 0 and no i4 elements")
        return
    if tensor.offset % ARENA_ALIGN:
        raise ProgramError(f"{where}: offset {tensor.offset}; need a multiple of {ARENA_ALIGN}")
    if not 0 <= tensor.offset <= program.arena_bytes - tensor.size_bytes:
        raise ProgramError(
            f"{where}: bytes [{tensor.offset}, {tensor.offset + tensor.size_bytes}); arena has {program.arena_bytes}"
        )


def _check_calls(program: ProgramData) -> None:
    for index, call in enumerate(program.calls):
        where = f"call[{index}] {call.kernel}"
        if not call.kernel or not call.args:
            raise ProgramError(f"{where}: needs a kernel name and at least one argument")
        _check_unique(f"{where}: slot", [arg.slot for arg in call.args])
        _check_unique(f"{where}: attribute", [attr.name for attr in call.attrs])
        for arg in call.args:
            _check_index(f"{where}: slot {arg.slot}: tensor", arg.tensor, len(program.tensors))
        for attr in call.attrs:
            if isinstance(attr.value, float) and not math.isfinite(attr.value):
                raise ProgramError(f"{where}: attribute {attr.name}: {attr.value}; need a finite number")
            if isinstance(attr.value, Dim):
                _check_value(program, f"{where}: attribute {attr.name}", attr.value)
            if isinstance(attr.value, int) and not -(2**63) <= attr.value < 2**63:
                raise ProgramError(f"{where}: attribute {attr.name}: {attr.value}; need 64 bits")


def _check_value(program: ProgramData, where: str, value: Dim) -> None:
    """Unlike a dimension, an attribute may be negative."""
    indices = [index for _, index in value.terms]
    if any(not 0 <= index < len(program.symbols) for index in indices) or len(set(indices)) != len(indices):
        raise ProgramError(f"{where}: symbols {indices}; need distinct indices below {len(program.symbols)}")
    low, high = value.range(program.symbols)
    if not indices or low < -MAX_ELEMENTS or high > MAX_ELEMENTS:
        raise ProgramError(f"{where}: range [{low}, {high}]; need symbols, and values of 32 bits")


def _check_inputs(program: ProgramData) -> None:
    for index, item in enumerate(program.inputs):
        where = f"input[{index}]"
        if (item.tensor < 0) == (item.symbol < 0):
            raise ProgramError(f"{where}: tensor {item.tensor}, symbol {item.symbol}; exactly one must be given")
        if item.symbol >= 0:
            _check_index(f"{where}: symbol", item.symbol, len(program.symbols))
            if item.host_dtype is not HostDType.I64:
                raise ProgramError(f"{where}: host dtype {item.host_dtype.value} of a symbol; need i64")
            continue
        _check_index(f"{where}: tensor", item.tensor, len(program.tensors))
        _check_host(where, program.tensors[item.tensor], item.host_dtype)
    _check_unique("input tensor", [str(item.tensor) for item in program.inputs if item.tensor >= 0])


def _check_outputs(program: ProgramData) -> None:
    for index, item in enumerate(program.outputs):
        where = f"output[{index}]"
        if not item.tensors:
            raise ProgramError(f"{where}: no tensors; need at least one")
        for tensor in item.tensors:
            _check_index(f"{where}: tensor", tensor, len(program.tensors))
            _check_host(where, program.tensors[tensor], item.host_dtype)
        pieces = [program.tensors[tensor] for tensor in item.tensors]
        if len(pieces) > 1 and len({(piece.dtype, piece.dims[:-1], len(piece.dims)) for piece in pieces}) > 1:
            raise ProgramError(f"{where}: pieces differ in dtype or in leading dimensions")
        if len(pieces) > 1 and any(not piece.dims or piece.dims[-1].terms for piece in pieces):
            raise ProgramError(f"{where}: a piece needs a static last dimension")


def _check_host(where: str, tensor: Tensor, host_dtype: HostDType) -> None:
    if tensor.memory is not Memory.ARENA or tensor.storage is not Storage.BUFFER:
        raise ProgramError(f"{where}: tensor {tensor.name} is no arena buffer")
    if tensor.dtype not in CONVERSIONS[host_dtype]:
        offered = ", ".join(dtype.value for dtype in CONVERSIONS[host_dtype])
        raise ProgramError(
            f"{where}: tensor {tensor.name}: dtype {tensor.dtype.value} for host dtype {host_dtype.value}; "
            f"offered {offered}"
        )


def _check_memory(program: ProgramData) -> None:
    """Every tensor is used, and no two arena buffers that matter at one time share a byte."""
    ranges = live_ranges(
        program.tensors, program.calls, inputs=program.inputs, outputs=program.outputs, faults=program.faults
    )
    active: list[tuple[int, Lifetime]] = []
    order = sorted((live, index) for index, live in enumerate(ranges) if live is not None)
    for index, live in enumerate(ranges):
        if live is None:
            raise ProgramError(f"tensor[{index}] {program.tensors[index].name}: nothing uses it")
    for (first, last), index in order:
        tensor = program.tensors[index]
        if tensor.memory is not Memory.ARENA or tensor.storage is not Storage.BUFFER or tensor.alias_of >= 0:
            continue
        life = Lifetime(first, last, tensor.size_bytes)
        active = [(other, held) for other, held in active if overlap_in_time(held, life)]
        for other, _ in active:
            rival = program.tensors[other]
            if tensor.offset < rival.offset + rival.size_bytes and rival.offset < tensor.offset + tensor.size_bytes:
                raise ProgramError(
                    f"tensor[{index}] {tensor.name}: shares arena bytes with tensor[{other}] {rival.name} "
                    "while both are live"
                )
        active.append((index, life))


def _check_index(where: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise ProgramError(f"{where}: index {index}; need 0 <= index < {count}")


def _check_unique(where: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            raise ProgramError(f"{where} name {name!r}: empty or used twice")
        seen.add(name)

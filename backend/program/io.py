"""The one writer and the one reader of the Program flatbuffer. Byte layout: README.md beside this file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

import flatbuffers
import xxhash

from ..errors import ProgramError
from ..kernels._generated.signatures import ALIASES
from ..kernels.dtypes import DType, Storage
from ..serialization._generated import common_generated as common
from ..serialization._generated import program_generated as fb
from .data import (
    VERSIONS,
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
)
from .model import Program

IDENTIFIER = b"ZPP1"
SEAL = b"ZPCK"
_Item = TypeVar("_Item")


def write_program(program: Program) -> bytes:
    """Verifies and serializes a Program. Equal Programs give equal bytes."""
    program.verify()
    root = fb.ProgramT()
    root.version, root.producer, root.arenaBytes = program.version, program.producer, program.arena_bytes
    root.symbols = [_write_symbol(symbol) for symbol in program.symbols]
    root.tensors = [_write_tensor(tensor) for tensor in program.tensors]
    root.calls = [_write_call(call) for call in program.calls]
    root.inputs = [
        _make(fb.InputT, tensor=item.tensor, symbol=item.symbol, hostDtype=getattr(fb.HostDType, item.host_dtype.value))
        for item in program.inputs
    ]
    root.outputs = [
        _make(fb.OutputT, tensors=list(item.tensors), hostDtype=getattr(fb.HostDType, item.host_dtype.value))
        for item in program.outputs
    ]
    root.alternatives = [
        _make(fb.AlternativeT, first=item.first, fused=item.fused, plain=item.plain) for item in program.alternatives
    ] or None
    root.checks = [_write_check(check) for check in program.checks] or None
    root.faults = program.faults
    builder = flatbuffers.Builder(1024)
    builder.Finish(root.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def seal(blob: bytes) -> bytes:
    """A blob with a mark and its XXH3-128 at the end: most damaged attributes are attributes too."""
    return blob + SEAL + xxhash.xxh3_128_hexdigest(blob).encode()


def read_program(data: bytes) -> Program:
    """Reads and verifies a Program, sealed or not.

    Raises ProgramError on anything that write_program and seal would not have written.
    """
    if data[-36:-32] == SEAL:
        data, sealed = data[:-36], data
        if seal(data) != sealed:
            raise ProgramError("program: its checksum differs; the bytes are damaged; export again")
    if data[4:8] != IDENTIFIER:
        raise ProgramError(f"program: identifier {data[4:8]!r}; need {IDENTIFIER!r}; not a Zeropoint delegate blob")
    try:
        root = fb.Program.GetRootAs(data)
        if root.Version() not in VERSIONS:
            known = ", ".join(map(str, VERSIONS))
            raise ProgramError(f"program: version {root.Version()}; this package knows {known}; export again")
        program = _read_root(fb.ProgramT.InitFromObj(root))
    except (struct.error, IndexError, ValueError, AttributeError, TypeError, OverflowError, MemoryError) as error:
        raise ProgramError(f"program: malformed flatbuffer ({error}); the bytes are damaged; export again") from error
    program.verify()
    return program


def _make(cls: type, **fields: object) -> object:
    item = cls()
    for name, value in fields.items():
        setattr(item, name, value)
    return item


def _write_symbol(symbol: Symbol) -> object:
    derived = symbol.op is not SymbolOp.GIVEN
    return _make(
        fb.SymbolT,
        name=symbol.name,
        min=symbol.min,
        max=symbol.max,
        op=getattr(fb.SymbolOp, symbol.op.value),
        a=_write_dim(symbol.a) if derived else None,
        b=_write_dim(symbol.b) if derived else None,
    )


def _write_tensor(tensor: Tensor) -> object:
    return _make(
        fb.TensorT,
        name=tensor.name,
        dtype=getattr(common.DType, tensor.dtype.value),
        storage=getattr(common.Storage, tensor.storage.value),
        dims=[_write_dim(dim) for dim in tensor.dims],
        memory=getattr(fb.Memory, tensor.memory.value),
        offset=tensor.offset,
        sizeBytes=tensor.size_bytes,
        constant=tensor.constant or None,
        aliasOf=tensor.alias_of,
        shared=tensor.shared or None,
    )


def _write_dim(dim: Dim) -> object:
    terms = [_make(fb.TermT, coefficient=coefficient, symbol=symbol) for coefficient, symbol in dim.terms]
    return _make(fb.DimT, base=dim.base, terms=terms or None)


def _write_call(call: Call) -> object:
    return _make(
        fb.CallT,
        name=call.name,
        kernel=call.kernel,
        args=[_make(fb.ArgT, slot=arg.slot, tensor=arg.tensor) for arg in call.args],
        attrs=[_write_attr(attr) for attr in call.attrs],
        debugHandles=list(call.debug_handles) or None,
    )


def _write_check(check: Check) -> object:
    return _make(
        fb.CheckT,
        input=check.input,
        min=_write_dim(check.min),
        max=_write_dim(check.max),
        what=check.what,
        offset=_write_dim(check.offset),
        sizes=[_write_dim(size) for size in check.sizes],
        strides=[_write_dim(stride) for stride in check.strides],
    )


def _write_attr(attr: Attr) -> object:
    if isinstance(attr.value, Dim):
        return _make(fb.AttrT, name=attr.name, kind=fb.AttrKind.symbolic, symbolic=_write_dim(attr.value))
    if isinstance(attr.value, int):
        return _make(fb.AttrT, name=attr.name, kind=fb.AttrKind.integer, integer=int(attr.value))
    return _make(fb.AttrT, name=attr.name, kind=fb.AttrKind.real, real=attr.value)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8")


def _name_of(enum: type, value: int) -> str:
    for name, number in vars(enum).items():
        if number == value and not name.startswith("_"):
            return name
    raise ValueError(f"{enum.__name__} {value} is unknown")


def _list(values: Sequence[_Item] | None) -> Sequence[_Item]:
    return () if values is None else values


def _read_root(root: fb.ProgramT) -> Program:
    return Program(
        version=root.version,
        producer=_text(root.producer),
        arena_bytes=root.arenaBytes,
        symbols=tuple(_read_symbol(item) for item in _list(root.symbols)),
        tensors=tuple(_read_tensor(item) for item in _list(root.tensors)),
        calls=tuple(_read_call(item) for item in _list(root.calls)),
        inputs=tuple(
            Input(item.tensor, item.symbol, HostDType(_name_of(fb.HostDType, item.hostDtype)))
            for item in _list(root.inputs)
        ),
        outputs=tuple(
            Output(tuple(int(t) for t in _list(item.tensors)), HostDType(_name_of(fb.HostDType, item.hostDtype)))
            for item in _list(root.outputs)
        ),
        alternatives=tuple(Alternative(item.first, item.fused, item.plain) for item in _list(root.alternatives)),
        checks=tuple(_read_check(item) for item in _list(root.checks)),
        faults=root.faults,
    )


def _read_symbol(item: fb.SymbolT) -> Symbol:
    op = SymbolOp(_name_of(fb.SymbolOp, item.op))
    if op is SymbolOp.GIVEN:
        return Symbol(_text(item.name), item.min, item.max)
    return Symbol(_text(item.name), item.min, item.max, op, _read_dim(item.a), _read_dim(item.b))


def _read_tensor(item: fb.TensorT) -> Tensor:
    return Tensor(
        name=_text(item.name),
        dtype=DType(_name_of(common.DType, item.dtype)),
        storage=Storage(_name_of(common.Storage, item.storage)),
        dims=tuple(_read_dim(dim) for dim in _list(item.dims)),
        memory=Memory(_name_of(fb.Memory, item.memory)),
        offset=item.offset,
        size_bytes=item.sizeBytes,
        constant=_text(item.constant),
        alias_of=item.aliasOf,
        shared=_text(item.shared),
    )


def _read_call(item: fb.CallT) -> Call:
    return Call(
        name=_text(item.name),
        kernel=ALIASES.get(_text(item.kernel), _text(item.kernel)),
        args=tuple(Arg(_text(arg.slot), arg.tensor) for arg in _list(item.args)),
        attrs=tuple(Attr(_text(attr.name), _read_value(attr)) for attr in _list(item.attrs)),
        debug_handles=tuple(int(handle) for handle in _list(item.debugHandles)),
    )


def _read_check(item: fb.CheckT) -> Check:
    return Check(
        input=item.input,
        min=_read_dim(item.min),
        max=_read_dim(item.max),
        what=_text(item.what),
        offset=_read_dim(item.offset),
        sizes=tuple(_read_dim(dim) for dim in _list(item.sizes)),
        strides=tuple(_read_dim(dim) for dim in _list(item.strides)),
    )


def _read_value(attr: fb.AttrT) -> int | float | Dim:
    match _name_of(fb.AttrKind, attr.kind):
        case "integer":
            return int(attr.integer)
        case "real":
            return float(attr.real)
        case _:
            return _read_dim(attr.symbolic)


def _read_dim(item: fb.DimT) -> Dim:
    return Dim(item.base, tuple((term.coefficient, term.symbol) for term in _list(item.terms)))

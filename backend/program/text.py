"""The golden text of a Program: one line per thing, in order, without weights' bytes or the producer's version."""

from __future__ import annotations

from collections.abc import Iterable

from .data import Attr, Call, Check, Dim, Memory, ProgramData, Symbol, SymbolOp, Tensor


def program_text(program: ProgramData) -> str:
    """Readable, diffable text; equal Programs give equal text."""
    lines = [f"program version {program.version}, arena {program.arena_bytes} bytes"]
    lines += _section("symbols", (_symbol(program, s) for s in program.symbols))
    lines += _section("inputs", (_input(program, i) for i in range(len(program.inputs))))
    lines += _section("checks", (_check(program, check) for check in program.checks))
    lines += _section("tensors", (_tensor(program, i) for i in range(len(program.tensors))))
    marks = _marks(program)
    lines += _section("calls", (marks[index] + _call(program, call) for index, call in enumerate(program.calls)))
    lines += _section("outputs", (_output(program, i) for i in range(len(program.outputs))))
    if program.faults >= 0:
        lines.append(f"faults: {_name(program, program.faults)}")
    return "\n".join(lines) + "\n"


def dim_text(dim: Dim, symbols: tuple[Symbol, ...]) -> str:
    """`12`, `s0`, `2*s0+1`."""
    parts = []
    for coefficient, index in dim.terms:
        factor = "" if coefficient == 1 else "-" if coefficient == -1 else f"{coefficient}*"
        parts.append(factor + symbols[index].name)
    if dim.base or not parts:
        parts.append(str(dim.base))
    return "+".join(parts).replace("+-", "-")


def type_text(tensor: Tensor, symbols: tuple[Symbol, ...]) -> str:
    """`f32[s0, 64]:buffer`."""
    dims = ", ".join(dim_text(dim, symbols) for dim in tensor.dims)
    return f"{tensor.dtype.value}[{dims}]:{tensor.storage.value}"


def _section(title: str, rows: Iterable[str]) -> list[str]:
    body = [f"  {row}" for row in rows]
    return [f"{title}:", *body] if body else []


def _symbol(program: ProgramData, symbol: Symbol) -> str:
    text = f"{symbol.name} in [{symbol.min}, {symbol.max}]"
    if symbol.op is SymbolOp.GIVEN:
        return text
    a, b = dim_text(symbol.a, program.symbols), dim_text(symbol.b, program.symbols)
    return f"{text} = ({a}) {'*' if symbol.op is SymbolOp.PRODUCT else '//'} ({b})"


def _name(program: ProgramData, index: int) -> str:
    return f"%{program.tensors[index].name}"


def _tensor(program: ProgramData, index: int) -> str:
    tensor = program.tensors[index]
    if tensor.alias_of >= 0:
        where = f"alias of {_name(program, tensor.alias_of)}"
    elif tensor.memory is Memory.STATE:
        where = f"state {tensor.constant[:16] or 'of zeros'}{f' shared as {tensor.shared}' if tensor.shared else ''}"
    elif tensor.memory is Memory.CONSTANT:
        where = f"constant {tensor.constant[:16]}"
    elif tensor.storage.value == "image":
        where = "arena image"
    else:
        where = f"arena @{tensor.offset}"
    return f"{_name(program, index)}: {type_text(tensor, program.symbols)} {where}, {tensor.size_bytes} bytes"


def _input(program: ProgramData, index: int) -> str:
    item = program.inputs[index]
    if item.symbol >= 0:
        return f"{index}: {item.host_dtype.value} -> symbol {program.symbols[item.symbol].name}"
    return f"{index}: {item.host_dtype.value} -> {_name(program, item.tensor)}"


def _check(program: ProgramData, check: Check) -> str:
    """`input 1: elements 0 + [s0] * [1] in [0, 7]: places of k`."""
    least, largest, first = (dim_text(dim, program.symbols) for dim in (check.min, check.max, check.offset))
    sizes, strides = (
        ", ".join(dim_text(dim, program.symbols) for dim in dims) for dims in (check.sizes, check.strides)
    )
    elements = f"elements {first} + [{sizes}] * [{strides}]" if check.sizes else f"element {first}"
    return f"input {check.input}: {elements} in [{least}, {largest}]: {check.what}"


def _output(program: ProgramData, index: int) -> str:
    item = program.outputs[index]
    return f"{index}: {', '.join(_name(program, t) for t in item.tensors)} -> {item.host_dtype.value}"


def _marks(program: ProgramData) -> dict[int, str]:
    """Before a call of an alternative: `fused | ` or `plain | `."""
    marks = dict.fromkeys(range(len(program.calls)), "")
    for item in program.alternatives:
        marks.update(dict.fromkeys(item.fused_calls, "fused | "))
        marks.update(dict.fromkeys(item.plain_calls, "plain | "))
    return marks


def _call(program: ProgramData, call: Call) -> str:
    args = ", ".join(f"{arg.slot}={_name(program, arg.tensor)}" for arg in call.args)
    attrs = ", ".join(f"{attr.name}={_value(program, attr)}" for attr in call.attrs)
    handles = f" handles {list(call.debug_handles)}" if call.debug_handles else ""
    return f"{call.name}: {call.kernel}({args})" + (f" {{{attrs}}}" if attrs else "") + handles


def _value(program: ProgramData, attr: Attr) -> str:
    return dim_text(attr.value, program.symbols) if isinstance(attr.value, Dim) else repr(attr.value)

"""Linears of one activation merged into one: q, k and v, or gate and up.

Their outputs then lie side by side. Merged is only what is read by calls that take a part of a row as it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from ..kernels._generated.signatures import Prologue
from ..lowering.view import QUAD
from ..program import Dim
from .draft import Draft, Step

_LINEAR = "linear_dq8ca"
_COLUMNS = {"w": 1, "w_scale": 1, "w_sum": 1, "w_zp": 1, "bias": 0}  # the axis of the outputs, by slot
_HEADS = ("rotary_update_cache", "attention", "attention_decode_partial")
_GATED = {"quantize_rows": {"x", "up"}, "gated_activation": {"gate", "up"}}  # operands of the gate
_PLACES = {
    slot: (f"{slot}_offset", "x_outer_stride" if slot == "x" else f"{slot}_row_stride") for slot in ("x", "gate", "up")
}
Attrs = dict[str, int | float | Dim]


def merge_linears(draft: Draft) -> None:
    """Several linears of one quantized activation -> one."""
    for first in [step for step in draft.steps if step.call.kernel == _LINEAR]:
        group = draft.readers(first.args["q"])
        if len(group) < 2 or group[0] is not first or not _alike(draft, group):
            continue
        starts = dict(
            zip(group, np.cumsum([0, *(_width_of(draft, item.args["y"]) for item in group[:-1])]).tolist(), strict=True)
        )
        readers = list(dict.fromkeys(step for item in group for step in draft.readers(item.args["y"])))
        own = {draft.root(item.args["y"]): starts[item] for item in group}
        total = sum(_width_of(draft, item.args["y"]) for item in group)
        if all(_takes_part(draft, step, own, total) for step in readers) and draft.gather(group):
            _merge(draft, group, readers, own, total)


def _alike(draft: Draft, group: Sequence[Step]) -> bool:
    """Whether linears differ in their weights and outputs alone, and fit into one binding together."""

    def kind(step: Step) -> object:
        info = [(slot, draft.info(tensor).dtype) for slot, tensor in step.args.items()]
        return (step.call.kernel, step.call.attrs, info, draft.info(step.args["y"]).dims[:-1])

    limit = draft.options.max_binding_bytes
    sizes = [sum(draft.info(item.args[slot]).size_bytes for item in group) for slot in ("w", "w_scale", "y")]
    inner = all(draft.is_inner(item.args["y"]) for item in group)
    shared = all(step.call.kernel == _LINEAR for step in group) and len({str(kind(step)) for step in group}) == 1
    return shared and inner and max(sizes) <= limit


def _takes_part(draft: Draft, step: Step, own: dict[int, int], total: int) -> bool:
    """Whether a call can read its part of the merged rows."""
    mine = {slot: tensor for slot, tensor in step.args.items() if draft.root(tensor) in own}
    if step.call.kernel in _GATED:
        gated = step.call.kernel == "gated_activation" or step.attrs["prologue"] == Prologue.GATED
        slots = _GATED[step.call.kernel]
        return gated and slots <= mine.keys() and all(_inside(draft, step, slot) for slot in slots)
    if step.call.kernel not in _HEADS or not ("k" in mine) == ("v" in mine):
        return False
    layouts = {step.attrs["q_layout" if slot == "q" else "kv_layout"] for slot in mine}
    whole = all(
        prod(dim.base for dim in draft.info(tensor).dims[2:]) == _width_of(draft, tensor) for tensor in mine.values()
    )
    places = [total, *(own[draft.root(tensor)] for tensor in mine.values())]
    aligned = step.call.kernel == "rotary_update_cache" or all(place % QUAD == 0 for place in places)
    return mine.keys() <= {"q", "k", "v"} and layouts == {1} and whole and aligned


def _inside(draft: Draft, step: Step, slot: str) -> bool:
    """Whether an operand of a gated activation is columns of a linear's rows."""
    offset, stride = (step.attrs[name] for name in _PLACES[slot])
    length, width = step.attrs["row_length"], _width_of(draft, step.args[slot])
    return isinstance(offset, int) and isinstance(length, int) and stride == width and offset + length <= width


def _width_of(draft: Draft, tensor: int) -> int:
    return draft.info(draft.root(tensor)).dims[-1].base


def _merge(draft: Draft, group: Sequence[Step], readers: Sequence[Step], own: dict[int, int], total: int) -> None:
    first = draft.info(group[0].args["y"])
    y = draft.builder.tensor(f"{first.name}.merged", first.dtype, (*first.dims[:-1], total))
    args: dict[str, int | None] = {**group[0].args, "y": y}
    for slot, axis in _COLUMNS.items():
        if slot in args:
            args[slot] = _joined(draft, [item.args[slot] for item in group], axis)
    merged = draft.make(group[0].call.kernel, args, group[0].attrs, replaces=group)
    draft.replace(group, merged)
    for step in readers:
        draft.substitute(step, draft.rebound(step, *_moved(draft, step, own, y, total)))


def _joined(draft: Draft, tensors: Sequence[int], axis: int) -> int:
    """A constant of several, side by side along the axis of the outputs."""
    infos = [draft.info(tensor) for tensor in tensors]
    dims = [dim.base for dim in infos[0].dims]
    dims[axis] = sum(info.dims[axis].base for info in infos)
    packers = [draft.builder.packer(tensor) for tensor in tensors]

    def data() -> npt.NDArray[np.generic]:
        return np.concatenate([pack() for pack in packers], axis=axis)

    return draft.builder.constant(f"{infos[0].name}.merged", infos[0].dtype, dims, data=data)


def _moved(draft: Draft, step: Step, own: dict[int, int], y: int, total: int) -> tuple[dict[str, int | None], Attrs]:
    """A reader's slots and attributes, its parts being columns of y."""
    args: dict[str, int | None] = dict(step.args)
    attrs = step.attrs
    for slot, tensor in step.args.items():
        start = own.get(draft.root(tensor))
        if start is None or slot in step.writes:
            continue
        args[slot] = y
        if step.call.kernel in _HEADS:
            dims = (*draft.info(tensor).dims[:2], Dim(total))
            args[slot] = y if draft.info(y).dims == dims else draft.builder.alias(y, dims)
            attrs[f"{slot}_first"] = _number(attrs[f"{slot}_first"]) + start
        elif slot in _PLACES:
            offset, stride = _PLACES[slot]
            attrs |= {offset: _number(attrs[offset]) + start, stride: total}
    return args, attrs


def _number(value: int | float | Dim) -> int:
    assert isinstance(value, int), value
    return value

"""For one row: the linears that read a quantized row quantize it themselves, and do what follows them.

Offered as alternatives of the separate calls, which stay for more rows and for devices where they are faster.
"""

from __future__ import annotations

from ..kernels._generated.signatures import SIGNATURES, Prologue
from ..program import Dim
from .draft import Draft, Step
from .residual import added, residual_of

_ROWS, _LINEAR, _FUSED = "quantize_rows", "linear_dq8ca", "row_linear"


def offer_row_linears(draft: Draft) -> None:
    """quantize_rows and the linears of its result alone -> one row_linear a linear."""
    for rows in [step for step in draft.steps if step.call.kernel == _ROWS]:
        linears = _linears(draft, rows)
        if rows.attrs["prologue"] == Prologue.GATED or not linears:
            continue
        down = _gated_rows(draft, linears[0]) if len(linears) == 1 else None
        if down is None or not _offer_gated(draft, rows, linears[0], down):
            _offer_plain(draft, rows, linears)


def _offer_plain(draft: Draft, rows: Step, linears: list[Step]) -> None:
    ends = [residual_of(draft, linear) for linear in linears]
    made = {draft.root(step.args["y"]) for step in (*linears, *ends) if step is not None}
    for index, (linear, end) in enumerate(zip(linears, ends, strict=True)):
        if end is not None and draft.root(added(draft, linear, end)) in made:
            ends[index] = None  # made by one of the others, perhaps later
    for kept in (ends, [None] * len(ends)):  # without the additions where what they add is made in between
        fused = [_made(draft, rows, linear, end) for linear, end in zip(linears, kept, strict=True)]
        if draft.offer(fused, [rows, *linears, *(end for end in kept if end is not None)]):
            return


def _offer_gated(draft: Draft, rows: Step, linear: Step, down: Step) -> bool:
    """Both linears of a gated feed-forward layer, the activation between them in the first."""
    seconds = _linears(draft, down)
    if len(seconds) != 1:
        return False
    wide = draft.info(linear.args["y"])
    half = draft.builder.tensor(f"{wide.name}.gated", wide.dtype, (*wide.dims[:-1], wide.dims[-1].base // 2))
    first = _made(draft, rows, linear, None, gated=half, op=down.attrs["op"])
    end = residual_of(draft, seconds[0])
    length = wide.dims[-1].base // 2
    alone: dict[str, int | float | Dim] = {
        **down.attrs,
        "prologue": int(Prologue.NONE),
        "x_offset": 0,
        "row_length": length,
    }
    second = _made(draft, down, seconds[0], end, x=half, attrs=alone)
    return draft.offer([first, second], [rows, linear, down, *seconds, *([] if end is None else [end])])


def _linears(draft: Draft, rows: Step) -> list[Step]:
    """The linears that read a quantize_rows' results, where they alone do and one row is possible; else none."""
    readers = list(dict.fromkeys(step for name in rows.writes for step in draft.readers(rows.args[name])))
    inner = all(draft.is_inner(rows.args[name]) for name in rows.writes)
    fits = all(step.call.kernel == _LINEAR and _fits(draft, rows, step) for step in readers)
    return readers if inner and fits else []


def _fits(draft: Draft, rows: Step, linear: Step) -> bool:
    """Whether row_linear has these dtypes, this length, and ever one row."""
    x, y = draft.info(rows.args["x"]), draft.info(linear.args["y"])
    n_rows = [draft.range(dim)[0] for dim in y.dims[:-1]]
    same = x.dtype is y.dtype is draft.info(rows.args["weight"]).dtype
    longest = SIGNATURES[_FUSED].constants["MAX_K"]
    return same and all(n <= 1 for n in n_rows) and draft.info(rows.args["q"]).dims[-1].base <= longest


def _gated_rows(draft: Draft, linear: Step) -> Step | None:
    """The quantize_rows of a gated activation of a linear's two halves."""
    y = linear.args["y"]
    rows = draft.only_reader(y, _ROWS) if draft.options.fuses("gated_linear") else None
    if rows is None or rows.attrs["prologue"] != Prologue.GATED or "residual" in linear.args:
        return None
    width = draft.info(y).dims[-1].base
    places = [rows.attrs[name] for name in ("x_offset", "up_offset", "row_length", "x_outer_stride", "up_row_stride")]
    whole = draft.root(rows.args["x"]) == draft.root(rows.args["up"]) == draft.root(y)
    return rows if whole and places == [0, width // 2, width // 2, width, width] else None


def _made(
    draft: Draft,
    rows: Step,
    linear: Step,
    end: Step | None,
    *,
    gated: int | None = None,
    op: int | float | Dim = 0,
    x: int | None = None,
    attrs: dict[str, int | float | Dim] | None = None,
) -> Step:
    """One row_linear.

    end: the addition after it; gated: what a gated activation writes; x, attrs: in place of the rows' own.
    """
    given = rows.attrs if attrs is None else attrs
    source = rows.args["x"] if x is None else x
    args: dict[str, int | None] = {"x": source, "weight": rows.args["weight"] if x is None else source}
    args |= {slot: linear.tensor(slot) for slot in ("w", "w_scale", "w_sum", "w_zp", "bias", "residual")}
    args["y"] = linear.args["y"] if gated is None else gated
    if end is not None:
        args["residual"] = added(draft, linear, end)
        args["y"] = end.args["y"]
    names = ("prologue", "row_length", "x_offset", "norm_eps", "weight_offset", "mapping", "qmin", "qmax", "eps")
    values = {name: given[name] for name in (*names, "rounding", "group_size", "group_padded", "step")}
    values |= {"gated": int(gated is not None), "op": op, "packed_length": draft.info(rows.args["q"]).dims[-1]}
    replaced = [rows, linear, *([] if end is None else [end])]
    return draft.make(_FUSED, args, values, replaces=replaced)

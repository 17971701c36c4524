"""Quantization in one call, and what stands before it merged into that call."""

from __future__ import annotations

from ..kernels._generated.signatures import Prologue
from ..program import Dim
from .draft import Draft, Step

_CHOOSE, _PACK, _ROWS = "choose_qparams_per_row", "quantize_and_pack", "quantize_rows"
_RESULTS = ("scale", "zp", "q", "group_sums")


def merge_quantization(draft: Draft) -> None:
    """choose_qparams_per_row, and one quantize_and_pack by its results -> quantize_rows."""
    for pack in [step for step in draft.steps if step.call.kernel == _PACK]:
        scale = pack.args["scale"]
        choose = draft.only_writer(scale, _CHOOSE)
        others = [step for step in draft.readers(scale) if step.call.kernel == _PACK]
        if choose is None or others != [pack] or not _belong(choose, pack) or not draft.gather([choose, pack]):
            continue
        x = pack.args["x"]
        args: dict[str, int | None] = {"x": x, "weight": x, "up": x}
        args |= {name: pack.tensor(name) for name in _RESULTS}
        length = draft.info(x).dims[-1]
        attrs: dict[str, int | float | Dim] = {"prologue": int(Prologue.NONE), "op": 0, "row_length": length}
        attrs |= {"x_offset": 0, "x_inner_rows": 1, "x_outer_stride": length, "x_inner_stride": 0}
        attrs |= {"up_offset": 0, "up_row_stride": 0, "norm_eps": 0.0, "weight_offset": 0.0}
        attrs |= {**choose.attrs, **pack.attrs}
        made = draft.make(_ROWS, args, attrs, replaces=(choose, pack))
        draft.replace([choose, pack], made)


def _belong(choose: Step, pack: Step) -> bool:
    """Whether a row is packed with the parameters that were chosen for it."""
    slots = all(choose.args[slot] == pack.args[slot] for slot in ("x", "scale", "zp"))
    return slots and all(choose.attrs[name] == pack.attrs[name] for name in ("qmin", "qmax"))


def merge_norm(draft: Draft) -> None:
    """rms_norm, and the quantize_rows of its result alone -> quantize_rows."""
    for rows in _plain_rows(draft):
        norm = _before(draft, rows, "rms_norm", slots=("x", "weight"))
        if norm is None:
            continue
        weight = norm.tensor("weight")
        args: dict[str, int | None] = {**rows.args, "x": norm.args["x"], "up": norm.args["x"]}
        args["weight"] = norm.args["x"] if weight is None else weight
        attrs = {**rows.attrs, "prologue": int(Prologue.NORM if weight is None else Prologue.WEIGHTED_NORM)}
        for name in ("x_offset", "x_inner_rows", "x_outer_stride", "x_inner_stride", "weight_offset"):
            attrs[name] = norm.attrs[name]
        attrs["norm_eps"] = norm.attrs["eps"]
        draft.replace([norm, rows], draft.make(_ROWS, args, attrs, replaces=(norm, rows)))


def merge_gated(draft: Draft) -> None:
    """gated_activation, and the quantize_rows of its result alone -> quantize_rows."""
    for rows in _plain_rows(draft):
        gated = _before(draft, rows, "gated_activation", slots=("gate", "up"))
        if gated is None:
            continue
        args: dict[str, int | None] = {**rows.args, "x": gated.args["gate"], "up": gated.args["up"]}
        args["weight"] = gated.args["gate"]
        attrs = {**rows.attrs, "prologue": int(Prologue.GATED), "op": gated.attrs["op"]}
        attrs |= {"x_offset": gated.attrs["gate_offset"], "x_outer_stride": gated.attrs["gate_row_stride"]}
        attrs |= {name: gated.attrs[name] for name in ("up_offset", "up_row_stride")}
        draft.replace([gated, rows], draft.make(_ROWS, args, attrs, replaces=(gated, rows)))


def _plain_rows(draft: Draft) -> list[Step]:
    return [step for step in draft.steps if step.call.kernel == _ROWS and step.attrs["prologue"] == Prologue.NONE]


def _before(draft: Draft, rows: Step, kernel: str, *, slots: tuple[str, str]) -> Step | None:
    """The call that makes a quantize_rows' x for it alone, row by row, from slots of the same dtype."""
    x = rows.args["x"]
    made, alone = draft.only_writer(x, kernel), draft.only_reader(x, _ROWS)
    if made is None or alone is not rows or made.attrs["row_length"] != rows.attrs["row_length"]:
        return None
    bound = [made.args[slot] for slot in (*slots, "y") if slot in made.args]
    same = len({draft.info(tensor).dtype for tensor in bound}) == 1
    return made if same and draft.gather([made, rows]) else None

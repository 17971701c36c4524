"""A linear and the addition of its result to another tensor, in one call."""

from __future__ import annotations

from ..errors import ProgramError
from ..kernels._generated.signatures import BinaryOp
from ..program import Dim
from .draft import Draft, Step

_ADD, _LINEAR = "elementwise_binary", "linear_dq8ca"


def merge_residuals(draft: Draft) -> None:
    """linear_dq8ca, and the addition of its result alone -> linear_dq8ca, where the kernel has it for these dtypes."""
    for linear in [step for step in draft.steps if step.call.kernel == _LINEAR]:
        end = residual_of(draft, linear)
        if end is None or _is_made_from(draft, added(draft, linear, end), _beside(draft, linear)):
            continue
        args: dict[str, int | None] = {**linear.args, "residual": added(draft, linear, end), "y": end.args["y"]}
        try:
            made = draft.make(_LINEAR, args, linear.attrs, replaces=(linear, end))
        except ProgramError:  # the kernel's variants with a residual are few
            continue
        if draft.gather([linear, end]):
            draft.replace([linear, end], made)


def residual_of(draft: Draft, linear: Step) -> Step | None:
    """The addition of a linear's result alone to another tensor of its size, row by row and element after element."""
    y = linear.args["y"]
    add = draft.only_reader(y, _ADD) if draft.options.fuses("residual") and "residual" not in linear.args else None
    if add is None or add.attrs["op"] != BinaryOp.ADD or add.attrs["alpha"] != 1.0:
        return None
    tensors = [draft.info(y), *(draft.info(add.args[slot]) for slot in ("a", "b", "y"))]
    # Of one size at run time, too, and of a flattened sum one row would be several.
    alike = len({(item.dtype, tuple(dim for dim in item.dims if dim != Dim(1))) for item in tensors}) == 1
    alike = alike and tensors[0].dims[-1] == tensors[-1].dims[-1]
    one = (draft.root(add.args["a"]) == draft.root(y)) != (draft.root(add.args["b"]) == draft.root(y))
    return add if alike and one and _is_dense(add, "a") and _is_dense(add, "b") else None


def _beside(draft: Draft, linear: Step) -> set[Step]:
    """The other calls that read the linear's quantized rows: for one row all are one alternative, side by side."""
    return set(draft.readers(linear.args["q"])) - {linear}


def _is_made_from(draft: Draft, tensor: int, steps: set[Step]) -> bool:
    """Whether a tensor depends on what some calls make."""
    left, seen = [tensor] if steps else [], set[Step]()
    while left:
        for step in draft.writers(left.pop()):
            if step in steps:
                return True
            if step not in seen:
                seen.add(step)
                left += [arg.tensor for arg in step.call.args if arg.slot not in step.writes]
    return False


def added(draft: Draft, linear: Step, end: Step) -> int:
    """The operand of an addition that is not the linear's result."""
    own = draft.root(linear.args["y"])
    return next(end.args[slot] for slot in ("a", "b") if draft.root(end.args[slot]) != own)


def _is_dense(add: Step, slot: str) -> bool:
    """Whether an operand is read element after element, from its first one on."""
    attrs = add.attrs
    length: int | None = 1
    for axis in reversed(range(4)):
        size = attrs[f"size{axis}"]
        if size == 1:
            continue
        if length is None or attrs[f"{slot}_stride{axis}"] != length:
            return False
        length = length * size if isinstance(size, int) else None
    return attrs[f"{slot}_offset"] == 0

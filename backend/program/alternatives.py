"""What Program.verify() asks of alternatives: fused calls beside the plain ones that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import ProgramError
from .data import Alternative, Call, Input, Memory, Output, ProgramData, Tensor


def check_alternatives(program: ProgramData) -> None:
    """Raises ProgramError where alternatives overlap, or one leaves something unwritten that is used afterwards."""
    end = 0
    for index, item in enumerate(program.alternatives):
        if item.first < end or item.fused < 1 or item.plain < 1 or item.plain_calls.stop > len(program.calls):
            raise ProgramError(
                f"alternative[{index}]: calls {item.first} + {item.fused} + {item.plain}; need some of each, after "
                f"{end} and up to {len(program.calls)}"
            )
        end = item.plain_calls.stop
    lost = lost_results(program.tensors, program.calls, program.inputs, program.outputs, program.alternatives)
    for index, tensor in lost:
        name = program.tensors[tensor].name
        raise ProgramError(f"alternative[{index}]: tensor {name} is named by one side only and used later")


def lost_results(
    tensors: Sequence[Tensor],
    calls: Sequence[Call],
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    alternatives: Sequence[Alternative],
) -> Iterator[tuple[int, int]]:
    """(alternative, tensor) where a buffer is named first in the alternative, by one side alone, and again after it.

    One of the sides may be what writes it. Constants do not count: nothing writes them.
    """
    root = [index if item.alias_of < 0 else item.alias_of for index, item in enumerate(tensors)]
    first = {root[given.tensor]: -1 for given in inputs if given.tensor >= 0}
    last: dict[int, int] = {}
    for index, call in enumerate(calls):
        for arg in call.args:
            first.setdefault(root[arg.tensor], index)
            last[root[arg.tensor]] = index
    last |= {root[tensor]: len(calls) for output in outputs for tensor in output.tensors}
    for index, item in enumerate(alternatives):
        sides = (item.fused_calls, item.plain_calls)
        fused, plain = ({root[arg.tensor] for i in side for arg in calls[i].args} for side in sides)
        for tensor in sorted(fused ^ plain):
            made_here = first[tensor] >= item.first and tensors[tensor].memory is not Memory.CONSTANT
            if made_here and last[tensor] >= item.plain_calls.stop:
                yield index, tensor

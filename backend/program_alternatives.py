"""What Program.verify() asks of alternatives: fused calls beside the plain ones that they stand for."""

from __future__ import annotations

from .errors import ProgramError
from .program import Alternative, Program


def check_alternatives(program: Program) -> None:
    """Raises ProgramError where alternatives overlap, or one leaves something unwritten that is used afterwards."""
    end = 0
    root = [index if item.alias_of < 0 else item.alias_of for index, item in enumerate(program.tensors)]
    for index, item in enumerate(program.alternatives):
        where = f"alternative[{index}]"
        if item.first < end or item.fused < 1 or item.plain < 1 or item.plain_calls.stop > len(program.calls):
            raise ProgramError(
                f"{where}: calls {item.first} + {item.fused} + {item.plain}; need some of each, after {end} and up to "
                f"{len(program.calls)}"
            )
        end = item.plain_calls.stop
        _check_results(program, root, where, item)


def _check_results(program: Program, root: list[int], where: str, item: Alternative) -> None:
    """What is named first in the alternative and again after it is named by both sides."""

    def named(calls: range) -> set[int]:
        return {root[arg.tensor] for index in calls for arg in program.calls[index].args}

    earlier = named(range(item.first)) | {root[given.tensor] for given in program.inputs if given.tensor >= 0}
    later = named(range(item.plain_calls.stop, len(program.calls)))
    later |= {root[tensor] for output in program.outputs for tensor in output.tensors}
    fused, plain = named(item.fused_calls), named(item.plain_calls)
    lost = sorted(((fused ^ plain) & later) - earlier)
    if lost:
        raise ProgramError(f"{where}: tensor {program.tensors[lost[0]].name} is named by one side only and used later")

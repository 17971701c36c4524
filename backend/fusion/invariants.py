"""What holds of the calls whatever fusion does to them. A pass that breaks it is taken back."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ..program import Memory
from .draft import Draft, Fused, Step


@dataclass(frozen=True, slots=True)
class Invariants:
    """given: the buffers that the lowered calls name and none of them writes; made: the arena buffers they write."""

    given: frozenset[int]
    made: frozenset[int]

    @classmethod
    def of(cls, draft: Draft) -> Invariants:
        """Of calls that nothing has fused yet."""
        written = {root for step in draft.steps for root in _writes(draft, step)}
        named = {root for step in draft.steps for root in _names(draft, step)}
        arena = {root for root in written if draft.info(root).memory is Memory.ARENA}
        return cls(frozenset(named - written), frozenset(arena))

    def broken_call(self, draft: Draft) -> str | None:
        """Why the calls without alternatives do not compute the outputs any more; None where they do."""
        written = set(self.given)
        for step in draft.steps:
            missing = self._missing(draft, step, written)
            if missing:
                return f"{step.call.name} reads {missing}, which nothing has written"
            written |= _writes(draft, step)
        lost = (draft.builder.outputs() & self.made) - written
        return f"nothing writes the output {draft.info(min(lost)).name}" if lost else None

    def unfit(self, draft: Draft) -> Iterator[tuple[Fused, str]]:
        """The alternatives whose two sides do not leave the same to the calls after them, each with the reason."""
        steps = draft.steps
        place = {id(step): index for index, step in enumerate(steps)}
        kept = [item for item in draft.alternatives if id(item.plain[0]) in place]
        at = {place[id(item.plain[0])]: item for item in kept}
        first, last = self._uses(draft, at)
        written = set(self.given)
        for index, step in enumerate(steps):
            item = at.get(index)
            if item is not None and steps[index : index + len(item.plain)] != item.plain:
                yield item, "its calls are not side by side"
            elif item is not None and (reason := self._reason(draft, item, written, (index, first, last))):
                yield item, reason
            written |= _writes(draft, step)
        yield from ((item, "its calls are gone") for item in draft.alternatives if item not in kept)

    def _reason(
        self, draft: Draft, item: Fused, written: Collection[int], uses: tuple[int, dict[int, int], dict[int, int]]
    ) -> str | None:
        """Why an alternative is unfit. uses: its place, and where each buffer is named first and last."""
        index, first, last = uses
        available = set(written)
        for step in item.fused:
            missing = self._missing(draft, step, available)
            if missing:
                return f"{step.call.name} reads {missing}, which nothing has written"
            available |= _writes(draft, step)
        sides = (item.fused, item.plain)
        named = [{root for step in side for root in _names(draft, step)} for side in sides]
        wrote = [{root for step in side for root in _writes(draft, step)} for side in sides]
        for root in sorted(named[0] ^ named[1]):
            here = root in wrote[0] ^ wrote[1] or first[root] >= index
            if here and draft.info(root).memory is not Memory.CONSTANT and last[root] >= index + len(item.plain):
                return f"{draft.info(root).name} is named by one side only and used later"
        return None

    def _uses(self, draft: Draft, at: dict[int, Fused]) -> tuple[dict[int, int], dict[int, int]]:
        """By buffer, the first and the last place where a call names it. Inputs come before all, outputs after."""
        first = {root: -1 for root in self.given if draft.info(root).memory is Memory.ARENA}
        last: dict[int, int] = {}
        for index, step in enumerate(draft.steps):
            item = at.get(index)
            for named in (step, *(item.fused if item is not None else ())):
                for root in _names(draft, named):
                    first.setdefault(root, index)
                    last[root] = index
        last |= dict.fromkeys(draft.builder.outputs(), len(draft.steps))
        return first, last

    def _missing(self, draft: Draft, step: Step, written: Collection[int]) -> str | None:
        """The name of an arena buffer that a call reads before it is written."""
        reads = _names(draft, step) - _writes(draft, step)
        lost = [root for root in reads if root not in written and draft.info(root).memory is Memory.ARENA]
        return draft.info(min(lost)).name if lost else None


def _names(draft: Draft, step: Step) -> set[int]:
    return {draft.root(arg.tensor) for arg in step.call.args}


def _writes(draft: Draft, step: Step) -> set[int]:
    return {draft.root(arg.tensor) for arg in step.call.args if arg.slot in step.writes}

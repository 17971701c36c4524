"""The calls of a Program while fusion passes rewrite them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..lowering.options import CompileOptions
from ..program import Alternative, Call, Dim, Memory, Tensor
from ..program.builder import ProgramBuilder


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One call. writes: the slots it writes; origins: the calls of the lowered graph that it stands for, by index."""

    call: Call
    writes: frozenset[str]
    origins: tuple[int, ...]

    def tensor(self, slot: str) -> int | None:
        """The tensor bound to a slot."""
        return next((arg.tensor for arg in self.call.args if arg.slot == slot), None)

    @property
    def args(self) -> dict[str, int]:
        """Tensors by slot."""
        return {arg.slot: arg.tensor for arg in self.call.args}

    @property
    def attrs(self) -> dict[str, int | float | Dim]:
        """Attributes by name."""
        return {attr.name: attr.value for attr in self.call.attrs}


@dataclass(slots=True)
class Fused:
    """Calls that stand for others where they can run."""

    fused: list[Step]
    plain: list[Step]


@dataclass(slots=True)
class Draft:
    """The calls that a Program needs, in order, and what fusion adds to them.

    A call keeps its place or takes that of another one, so that no question and no change walks all of them.
    """

    builder: ProgramBuilder
    options: CompileOptions
    alternatives: list[Fused] = field(default_factory=list)
    _places: list[Step | None] = field(default_factory=list)  # None where a call was merged into another
    _at: dict[Step, int] = field(default_factory=dict)
    _readers: defaultdict[int, set[Step]] = field(default_factory=lambda: defaultdict(set))  # by root
    _writers: defaultdict[int, set[Step]] = field(default_factory=lambda: defaultdict(set))
    _outputs: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, builder: ProgramBuilder, options: CompileOptions) -> Draft:
        """The needed calls of what has been lowered, outputs and states included."""
        made = builder.made_calls()
        draft = cls(builder, options, _outputs=builder.outputs())
        draft.steps = [Step(*made[index], (index,)) for index in builder.needed_calls()]
        return draft

    @property
    def steps(self) -> list[Step]:
        """The calls in order."""
        return [step for step in self._places if step is not None]

    @steps.setter
    def steps(self, steps: Sequence[Step]) -> None:
        self._places = [None] * len(steps)
        self._at.clear()
        self._readers.clear()
        self._writers.clear()
        for place, step in enumerate(steps):
            self._put(step, place)

    def info(self, tensor: int) -> Tensor:
        """A declared tensor."""
        return self.builder.tensor_info(tensor)

    def range(self, dim: Dim) -> tuple[int, int]:
        """The smallest and the largest value of a dimension."""
        return self.builder.range_of(dim)

    def root(self, tensor: int) -> int:
        """The buffer that a tensor is, or is an alias of."""
        alias = self.builder.tensor_info(tensor).alias_of
        return tensor if alias < 0 else alias

    def writers(self, tensor: int) -> list[Step]:
        """The calls that write a buffer, in order."""
        return self._ordered(self._writers.get(self.root(tensor), ()))

    def readers(self, tensor: int) -> list[Step]:
        """The calls that read a buffer, in order."""
        return self._ordered(self._readers.get(self.root(tensor), ()))

    def only_reader(self, tensor: int, kernel: str) -> Step | None:
        """The one call that reads a scratch buffer, if it is of that kernel and nothing else needs the buffer."""
        readers = self.readers(tensor)
        single = len(readers) == 1 and readers[0].call.kernel == kernel and self.is_inner(tensor)
        return readers[0] if single else None

    def only_writer(self, tensor: int, kernel: str) -> Step | None:
        """The one call that writes a scratch buffer, if it is of that kernel."""
        writers = self.writers(tensor)
        inner = self.info(self.root(tensor)).memory is Memory.ARENA
        return writers[0] if inner and len(writers) == 1 and writers[0].call.kernel == kernel else None

    def is_inner(self, tensor: int) -> bool:
        """Whether no output and no later run needs a buffer."""
        root = self.root(tensor)
        return self.info(root).memory is Memory.ARENA and root not in self._outputs

    def make(
        self,
        kernel: str,
        args: Mapping[str, int | None],
        attrs: Mapping[str, int | float | Dim],
        *,
        replaces: Sequence[Step],
    ) -> Step:
        """A call for others. It is named after the last of them. Raises ProgramError as ProgramBuilder.call does."""
        handles = tuple(dict.fromkeys(handle for step in replaces for handle in step.call.debug_handles))
        name = self.builder.unique_call(replaces[-1].call.name)
        origins = tuple(sorted({origin for step in replaces for origin in step.origins}))
        return Step(*self.builder.make_call(kernel, args, attrs, name=name, debug_handles=handles), origins)

    def rebound(self, step: Step, args: Mapping[str, int | None], attrs: Mapping[str, int | float | Dim]) -> Step:
        """A call with other slots and attributes."""
        call = step.call
        made = self.builder.make_call(call.kernel, args, attrs, name=call.name, debug_handles=call.debug_handles)
        return Step(*made, step.origins)

    def substitute(self, old: Step, new: Step) -> None:
        """Puts a call in the place of another."""
        place = self._at[old]
        self._remove(old)
        self._put(new, place)

    def replace(self, old: Sequence[Step], new: Step) -> None:
        """Puts a call in the place of the last of some others, which nothing between them may depend on."""
        gathered = self.gather(old)
        assert gathered, [step.call.name for step in old]
        place = self._at[old[-1]]
        for step in old:
            self._remove(step)
        self._put(new, place)

    def gather(self, group: Sequence[Step]) -> bool:
        """Moves calls right before the last of them, in order. False, and none moved, where others are in the way."""
        places = sorted(self._at[step] for step in set(group))
        between = [step for step in self._places[places[0] : places[-1] + 1] if step is not None]
        moved: list[Step] = []
        others: list[Step] = []
        touched: set[int] = set()
        written: set[int] = set()
        for step in between:
            own, writes = self._roots(step), self._roots(step, step.writes)
            if step in group:
                moved.append(step)
                touched |= own
                written |= writes
            elif written & own or writes & touched:
                return False
            else:
                others.append(step)
        for place, step in zip(sorted(self._at[step] for step in between), [*others, *moved], strict=True):
            self._places[place], self._at[step] = step, place
        return True

    def offer(self, fused: Sequence[Step], plain: Sequence[Step]) -> bool:
        """Adds an alternative.

        Not if one of its plain calls is in another, they cannot be side by side, or a fused call reads what only the
        plain ones or a later one make.
        """
        missing = set().union(*(self._roots(step, step.writes) for step in (*plain, *fused)))
        for step in fused:
            if missing & self._roots(step, {arg.slot for arg in step.call.args} - step.writes):
                return False
            missing -= self._roots(step, step.writes)
        taken = {step for item in self.alternatives for step in item.plain}
        if not taken.isdisjoint(plain) or not self.gather(plain):
            return False
        self.alternatives.append(Fused(list(fused), self._ordered(set(plain))))
        return True

    def finish(self) -> None:
        """Hands the calls back to the builder."""
        by_first = {id(item.plain[0]): item for item in self.alternatives}
        steps: list[Step] = []
        alternatives = []
        for step in self.steps:
            item = by_first.get(id(step))
            if item is not None:
                alternatives.append(Alternative(len(steps), len(item.fused), len(item.plain)))
                steps += item.fused
            steps.append(step)
        self.builder.replace_calls([(step.call, step.writes) for step in steps], alternatives)

    def _put(self, step: Step, place: int) -> None:
        self._places[place], self._at[step] = step, place
        for arg in step.call.args:
            (self._writers if arg.slot in step.writes else self._readers)[self.root(arg.tensor)].add(step)

    def _remove(self, step: Step) -> None:
        self._places[self._at.pop(step)] = None
        for arg in step.call.args:
            (self._writers if arg.slot in step.writes else self._readers)[self.root(arg.tensor)].discard(step)

    def _ordered(self, steps: Iterable[Step]) -> list[Step]:
        return sorted(steps, key=self._at.__getitem__)

    def _roots(self, step: Step, slots: Collection[str] | None = None) -> set[int]:
        return {self.root(arg.tensor) for arg in step.call.args if slots is None or arg.slot in slots}

"""The calls of a Program while fusion passes rewrite them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..builder import ProgramBuilder, constant_or_dim
from ..options import CompileOptions
from ..program import Alternative, Arg, Attr, Call, Dim, Memory, Tensor


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
    """The calls that a Program needs, in order, and what fusion adds to them."""

    builder: ProgramBuilder
    options: CompileOptions
    steps: list[Step] = field(default_factory=list)
    alternatives: list[Fused] = field(default_factory=list)

    @classmethod
    def of(cls, builder: ProgramBuilder, options: CompileOptions) -> Draft:
        """The needed calls of what has been lowered, outputs and states included."""
        made = builder.made_calls()
        return cls(builder, options, [Step(*made[index], (index,)) for index in builder.needed_calls()])

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
        return [step for step in self.steps if self._names(step, tensor, written=True)]

    def readers(self, tensor: int) -> list[Step]:
        """The calls that read a buffer, in order."""
        return [step for step in self.steps if self._names(step, tensor, written=False)]

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
        return self.info(root).memory is Memory.ARENA and root not in self.builder.outputs()

    def make(
        self,
        kernel: str,
        args: Mapping[str, int | None],
        attrs: Mapping[str, int | float | Dim],
        *,
        writes: Sequence[str],
        replaces: Sequence[Step],
    ) -> Step:
        """A call for others. It is named after the last of them."""
        handles = tuple(dict.fromkeys(handle for step in replaces for handle in step.call.debug_handles))
        name = self.builder.unique_call(replaces[-1].call.name)
        origins = tuple(sorted({origin for step in replaces for origin in step.origins}))
        return Step(Call(name, kernel, *self.bound(args, attrs), handles), frozenset(writes), origins)

    @staticmethod
    def bound(
        args: Mapping[str, int | None], attrs: Mapping[str, int | float | Dim]
    ) -> tuple[tuple[Arg, ...], tuple[Attr, ...]]:
        """Slots and attributes as a Call has them."""
        slots = tuple(Arg(slot, tensor) for slot, tensor in args.items() if tensor is not None)
        return slots, tuple(Attr(name, constant_or_dim(value)) for name, value in attrs.items())

    def substitute(self, old: Step, new: Step) -> None:
        """Puts a call in the place of another."""
        self.steps[self.steps.index(old)] = new

    def replace(self, old: Sequence[Step], new: Step) -> None:
        """Puts a call in the place of the last of some others, which nothing between them may depend on."""
        gathered = self.gather(old)
        assert gathered, [step.call.name for step in old]
        at = self.steps.index(old[-1])
        self.steps[at] = new
        self.steps = [step for step in self.steps if step not in old]

    def gather(self, group: Sequence[Step]) -> bool:
        """Moves calls right before the last of them, in order. False, and none moved, where others are in the way."""
        order = [step for step in self.steps if step in group]
        first, last = self.steps.index(order[0]), self.steps.index(order[-1])
        moved: list[Step] = []
        others: list[Step] = []
        for step in self.steps[first : last + 1]:
            if step in group:
                moved.append(step)
            elif any(self._conflict(earlier, step) for earlier in moved):
                return False
            else:
                others.append(step)
        self.steps[first : last + 1] = [*others, *moved]
        return True

    def offer(self, fused: Sequence[Step], plain: Sequence[Step]) -> bool:
        """Adds an alternative.

        Not if one of its plain calls is in another, they cannot be side by side, or a fused call reads what only the
        plain ones or a later one make.
        """
        taken = [step for item in self.alternatives for step in item.plain]
        missing = set().union(*(self._roots(step, step.writes) for step in (*plain, *fused)))
        for step in fused:
            if missing & self._roots(step, {arg.slot for arg in step.call.args} - step.writes):
                return False
            missing -= self._roots(step, step.writes)
        if any(step in taken for step in plain) or not self.gather(plain):
            return False
        self.alternatives.append(Fused(list(fused), [step for step in self.steps if step in plain]))
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

    def _names(self, step: Step, tensor: int, *, written: bool) -> bool:
        root = self.root(tensor)
        return any(self.root(arg.tensor) == root and (arg.slot in step.writes) == written for arg in step.call.args)

    def _conflict(self, a: Step, b: Step) -> bool:
        """Whether two calls touch one buffer and one of them writes it."""
        return bool(self._roots(a, a.writes) & self._roots(b)) or bool(self._roots(b, b.writes) & self._roots(a))

    def _roots(self, step: Step, slots: Collection[str] | None = None) -> set[int]:
        return {self.root(arg.tensor) for arg in step.call.args if slots is None or arg.slot in slots}

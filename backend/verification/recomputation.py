"""Recomputes every kernel call of a device run with its reference, from what the device itself held before the call.

Errors do not add up that way: a call is compared on the inputs that it really had. Where several calls write parts of
one tensor (pieces of a cat, a cache), what each of them must have left there is composed in order, and a wrong element
is the fault of the last one that wrote it. A call that reads such a tensor between two writers reads the composition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..program import Call, Memory, Program
from ..program.constants import Payloads
from .interpreter import DEVICE_TORCH, Written, attributes, constant_values, evaluate, first_state, shape_of
from .tolerances import error_bound, excess


@dataclass(frozen=True, slots=True)
class DeviceRun:
    """One run of a Program on a device.

    ran: the indices of the calls that ran, in order. before: contents of the states by name; read: a tensor as the run
    left it.
    """

    program: Program
    constants: Payloads
    symbols: tuple[int, ...]
    ran: tuple[int, ...]
    before: Mapping[str, torch.Tensor]
    read: Callable[[int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class SlotCheck:
    """A call's result in one slot: the largest and the root mean square |device - reference|, and its worst element.

    excess: the largest error in tolerances. That is of the worst element, which is `element` of the tensor in row-major
    order, as are tolerance, actual and wanted. untouched: this is about the elements of a state that no call writes.
    """

    call: int
    slot: str
    n_elements: int
    n_wrong: int
    max_error: float
    rms_error: float
    tolerance: float
    excess: float
    element: int
    actual: float
    wanted: float
    untouched: bool = False

    @property
    def is_right(self) -> bool:
        return self.n_wrong == 0


def recompute(run: DeviceRun, outputs: Mapping[str, frozenset[str]]) -> tuple[SlotCheck, ...]:
    """A check for each slot that a call writes, in the order of the calls. outputs: by kernel, the slots it writes."""
    return _Walk(run, outputs).checks()


def first_states(program: Program, constants: Payloads) -> dict[str, torch.Tensor]:
    """What the states hold before the first run."""
    states = {}
    for item in program.tensors:
        if item.memory is Memory.STATE and item.alias_of < 0:
            shape = shape_of(item, ())
            states[item.name] = first_state(item, math.prod(shape), constants).view(shape)
    return states


@dataclass(slots=True)
class _Composed:
    """What a tensor must hold, flat. owner: the call that wrote an element last, -1 before any."""

    contents: torch.Tensor
    wanted: torch.Tensor
    bound: torch.Tensor
    owner: torch.Tensor
    slots: dict[int, str]


class _Walk:
    def __init__(self, run: DeviceRun, outputs: Mapping[str, frozenset[str]]) -> None:
        self._run, self._program = run, run.program
        tensors = run.program.tensors
        self._root = [index if item.alias_of < 0 else item.alias_of for index, item in enumerate(tensors)]
        self._writers: dict[int, list[int]] = {}
        self._last_use: dict[int, int] = {}
        for index in run.ran:
            call = run.program.calls[index]
            for arg in call.args:
                root = self._root[arg.tensor]
                self._last_use[root] = index
                if arg.slot in outputs[call.kernel] and index not in self._writers.setdefault(root, []):
                    self._writers[root].append(index)
        self._flat: dict[int, torch.Tensor] = {}  # constants, and what the device was left with
        self._composed: dict[int, _Composed] = {}
        self._checks: dict[tuple[int, str, bool], SlotCheck] = {}

    def checks(self) -> tuple[SlotCheck, ...]:
        for index in self._run.ran:
            call = self._program.calls[index]
            self._call(index, call)
            for root in {self._root[arg.tensor] for arg in call.args}:
                if self._last_use[root] == index:
                    self._flat.pop(root, None)
        return tuple(self._checks[key] for key in sorted(self._checks))

    def _call(self, index: int, call: Call) -> None:
        slots = {}
        for arg in call.args:
            shape = shape_of(self._program.tensors[arg.tensor], self._run.symbols)
            slots[arg.slot] = self._before(self._root[arg.tensor], index)[: math.prod(shape)].view(shape)
        attrs = attributes(call, self._run.symbols)
        written = evaluate(call, slots, self._run.symbols)
        for slot, result in written.items():
            bound = error_bound(call.kernel, slot, slots, attrs, result.values, slots[slot].dtype)
            root = self._root[call.tensor(slot)]
            if self._is_composed(root):
                self._compose(root, index, slot, result, bound, slots[slot])
            else:
                mask = slice(None) if result.mask is None else result.mask.flatten()
                actual = self._device(root)[: slots[slot].numel()]
                self._check(index, slot, actual, result.values.flatten(), bound.flatten(), mask)
        for root in {self._root[call.tensor(slot)] for slot in written}:
            if root in self._composed and self._writers[root][-1] == index:
                self._finish(root, index)

    def _is_composed(self, root: int) -> bool:
        return len(self._writers[root]) > 1 or self._program.tensors[root].memory is Memory.STATE

    def _before(self, root: int, index: int) -> torch.Tensor:
        """What a tensor held before a call, flat."""
        item, writers = self._program.tensors[root], self._writers.get(root, [])
        if item.memory is Memory.STATE and not any(writer < index for writer in writers):
            return self._run.before[item.name].flatten()
        if root in self._composed and writers[-1] >= index:
            return self._composed[root].contents
        return self._device(root)

    def _device(self, root: int) -> torch.Tensor:
        """What a tensor held after the run, flat; before its first writer nothing is known of scratch memory."""
        if root not in self._flat:
            item = self._program.tensors[root]
            if item.memory is Memory.CONSTANT:
                count = math.prod(shape_of(item, self._run.symbols))
                self._flat[root] = constant_values(self._run.constants[item.constant], item.dtype, count)
            else:
                self._flat[root] = self._run.read(root).flatten()
                assert self._flat[root].dtype is DEVICE_TORCH[item.dtype]
        return self._flat[root]

    def _compose(
        self, root: int, index: int, slot: str, result: Written, bound: torch.Tensor, before: torch.Tensor
    ) -> None:
        if root not in self._composed:
            contents = self._before(root, index).clone()
            owner = torch.full(contents.shape, -1, dtype=torch.int32)
            self._composed[root] = _Composed(
                contents, contents.double(), torch.zeros_like(contents).double(), owner, {}
            )
        composed = self._composed[root]
        values = result.values.flatten()
        # A reference that returns a whole cache does not say which elements it wrote: those that it changed.
        changed = values.to(before.dtype) != before.flatten()
        at = (changed if result.mask is None else result.mask.flatten()).nonzero().squeeze(-1)
        composed.contents[at] = values[at].to(before.dtype)
        composed.wanted[at] = values[at].double()
        composed.bound[at] = bound.flatten()[at]
        composed.owner[at] = index
        composed.slots[index] = slot

    def _finish(self, root: int, last: int) -> None:
        """Compares a tensor that has been written for the last time with all that was to be written."""
        composed, actual = self._composed.pop(root), self._device(root)
        for index, slot in composed.slots.items():
            self._check(index, slot, actual, composed.wanted, composed.bound, composed.owner == index)
        if self._program.tensors[root].memory is Memory.STATE and bool((composed.owner < 0).any()):
            untouched, slot = composed.owner < 0, composed.slots[last]
            self._check(last, slot, actual, composed.wanted, composed.bound, untouched, untouched=True)

    def _check(
        self,
        call: int,
        slot: str,
        actual: torch.Tensor,
        wanted: torch.Tensor,
        bound: torch.Tensor,
        mask: torch.Tensor | slice,
        *,
        untouched: bool = False,
    ) -> None:
        places = torch.arange(len(actual))[mask]
        if not len(places):
            numbers = (0.0,) * 4
            self._checks[call, slot, untouched] = SlotCheck(call, slot, 0, 0, *numbers, 0, 0.0, 0.0, untouched)
            return
        actual, wanted, bound = actual[mask], wanted[mask], bound[mask]
        ratio = excess(actual, wanted, bound)
        error = (actual.double() - wanted.double()).abs()
        error = torch.where((ratio == 0) & ~torch.isfinite(error), 0.0, error).nan_to_num(math.inf, math.inf)
        worst = int(ratio.argmax())
        self._checks[call, slot, untouched] = SlotCheck(
            call=call,
            slot=slot,
            n_elements=len(places),
            n_wrong=int((ratio > 1).sum()),
            max_error=float(error.max()),
            rms_error=float(error.square().mean().sqrt()),
            tolerance=float(bound[worst]),
            excess=float(ratio[worst]),
            element=int(places[worst]),
            actual=float(actual[worst]),
            wanted=float(wanted[worst]),
            untouched=untouched,
        )

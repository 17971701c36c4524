"""Which states the methods of one lowering share: those that are one buffer, or that the user names.

The partitioner sees one method at a time, with fake weights; preprocess one partition. ExecuTorch hands all partitions
of all methods to the backend at once, with the real weights: there the keys are given, and there it shows whether a
method keeps on the device what another one touches on the CPU.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from ..errors import OptionError, Unsupported
from ..lowering.graph import STATE_KEY
from ..program import Program

_METHODS = "zeropoint_methods"  # in the meta of a tagged node: the lowering's methods, and its own index
_MAX_NAME = 128  # characters of a buffer's name in a key


class Place(NamedTuple):
    """Where a tensor's elements lie in this process. Equal places are the same buffer."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Method:
    """A method as the partitioner left it. outside: buffers that no delegate owns -> the node and why, in words.

    places: of the buffers of all methods when the lowering began (Buffers.places).
    """

    program: ExportedProgram
    outside: Mapping[str, str]
    places: Mapping[str, set[Hashable]]


@dataclass(slots=True)
class Buffers:
    """What the methods of a lowering do with their buffers, as far as it is known before any of them is partitioned."""

    names: Sequence[str]  # of buffers that the user shares
    places: dict[str, set[Hashable]] = field(default_factory=dict)
    written: set[Hashable] = field(default_factory=set)

    def add(self, program: ExportedProgram) -> None:
        """Notes a method that carries real weights."""
        mutated = program.graph_signature.buffers_to_mutate.values()
        for name, tensor in _buffers(program):
            identity = _identity(name, tensor, self.names)
            if identity is not None:
                self.places.setdefault(name, set()).add(identity)
                self.written.update({identity} if name in mutated else ())

    def is_written(self, name: str) -> bool:
        """Whether some method writes the buffer that a method has by this name. May be wrong where names are alike."""
        return bool(self.places.get(name, set()) & self.written)


@dataclass(frozen=True, slots=True)
class _Use:
    """A method's use of a buffer: by its placeholder in a partition, or for a reason outside the delegates."""

    method: str
    name: str
    tensor: torch.Tensor
    writes: bool
    placeholder: Node | None = None
    outside: str = ""


def place_of(tensor: torch.Tensor) -> Place | None:
    """None for a tensor without elements and for a fake one."""
    if isinstance(tensor, torch._subclasses.FakeTensor) or not tensor.numel():
        return None
    storage = tensor.untyped_storage().data_ptr()
    return Place(storage, int(tensor.storage_offset()), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def note_method(nodes: Sequence[Node], methods: list[Method], method: Method) -> None:
    """Adds a partitioned method to its lowering, where its tagged nodes lead back to."""
    methods.append(method)
    for node in nodes:
        node.meta[_METHODS] = (methods, len(methods) - 1)


def give_keys(partitions: Mapping[str, Sequence[ExportedProgram]], names: Sequence[str]) -> None:
    """Marks the states in the partitions' graphs with the keys under which the methods share them.

    names: of buffers that are shared although they are not the same ones. Raises OptionError where no method has such
    a buffer, and Unsupported where methods cannot share what they must.
    """
    uses, places = _uses(partitions)
    for name in names:
        if all(use.name != name for use in uses):
            have = ", ".join(sorted({use.name for use in uses})) or "no buffer"
            raise OptionError(f"CompileOptions: shared_states: {name!r}: no method has it; they have {have}")
    for use in uses:
        if use.placeholder is not None:
            use.placeholder.meta.pop(STATE_KEY, None)
    for number, group in enumerate(_groups(uses, names, places)):
        if all(use.outside for use in group):
            continue  # ExecuTorch's, in every method
        _check(group)
        for use in group:
            assert use.placeholder is not None
            use.placeholder.meta[STATE_KEY] = f"{number}:{group[0].name[:_MAX_NAME]}"


def check_agreement(programs: Mapping[str, Sequence[Program]]) -> None:
    """Raises Unsupported where two methods keep a shared state in different ways."""
    first: dict[str, tuple[str, dict[str, tuple[object, ...]]]] = {}
    for method, tensor in ((m, t) for m, found in programs.items() for p in found for t in p.tensors if t.shared):
        group = tensor.shared.split(":")[0]
        form = (tensor.dtype, tensor.dims, tensor.constant)
        _, forms = first.setdefault(f"{group} {method}", (method, {}))
        forms[tensor.shared] = form
    seen: dict[str, tuple[str, dict[str, tuple[object, ...]]]] = {}
    for key, (method, forms) in first.items():
        other, expected = seen.setdefault(key.split()[0], (method, forms))
        if forms != expected:
            name = min(forms).split(":", 1)[1]
            raise Unsupported(
                f"state {name}: methods {other} and {method} keep it in different dtypes, shapes or first contents; "
                "a shared state needs the same, or kv_cache='model'"
            )


def _buffers(program: ExportedProgram) -> Iterator[tuple[str, torch.Tensor]]:
    for name in program.graph_signature.inputs_to_buffers.values():
        tensor = program.state_dict.get(name, program.constants.get(name))
        if isinstance(tensor, torch.Tensor):
            yield name, tensor


def _identity(name: str, tensor: torch.Tensor, names: Sequence[str]) -> Hashable:
    return name if name in names else place_of(tensor)


def _uses(partitions: Mapping[str, Sequence[ExportedProgram]]) -> tuple[list[_Use], dict[str, set[Hashable]]]:
    """Every use of a buffer in a method of the lowering; where the buffers lay when it began."""
    own: dict[int, str] = {}
    methods: list[Method] = []
    uses = []
    for method, programs in partitions.items():
        for program in programs:
            tensors, mutated = dict(_buffers(program)), set(program.graph_signature.buffers_to_mutate.values())
            for node in program.graph.nodes:
                name = program.graph_signature.inputs_to_buffers.get(node.name, "")
                if node.op == "placeholder" and name in tensors:
                    uses.append(_Use(method, name, tensors[name], name in mutated, node))
                if _METHODS in node.meta:
                    methods, index = node.meta[_METHODS]
                    own[index] = method
    for index, item in enumerate(methods):
        tensors, mutated = dict(_buffers(item.program)), set(item.program.graph_signature.buffers_to_mutate.values())
        for name, reason in item.outside.items():
            method = own.get(index, f"number {index + 1} (which has no delegate)")
            uses.append(_Use(method, name, tensors[name], name in mutated, outside=reason))
    places = dict(methods[0].places) if methods else {}
    methods.clear()  # the lowering is over: its programs may go, and a partitioner may serve another one
    return uses, places


def _groups(uses: Sequence[_Use], names: Sequence[str], places: Mapping[str, set[Hashable]]) -> list[list[_Use]]:
    """The uses of one buffer by several methods, of which one writes it. In the order of the methods."""
    found: dict[Hashable, list[_Use]] = {}
    storages: dict[int, dict[Hashable, None]] = {}
    renamed = {place_of(use.tensor): use.name for use in uses if use.name in names}
    for use in uses:
        place = place_of(use.tensor)
        identity: Hashable = use.name if use.name in names else renamed.get(place, place)
        if identity is not None and identity is place:
            identity = _first_place(use, place, places.get(use.name, {place}))
        if identity is not None:
            found.setdefault(identity, []).append(use)
        if place is not None:
            storages.setdefault(place.storage, {})[identity] = None
    for identities in storages.values():
        several = list(chain.from_iterable(found[identity] for identity in identities))
        if len(identities) > 1 and any(use.writes for use in several):
            described = ", ".join(f"{use.method}: {use.name}" for use in several)
            raise Unsupported(f"states that overlap in memory ({described}); share whole buffers, or clone them")
    return [
        group for group in found.values() if any(use.writes for use in group) and len({use.method for use in group}) > 1
    ]


def _first_place(use: _Use, place: Hashable, known: set[Hashable]) -> Hashable:
    """Where a buffer lay when the lowering began: ExecuTorch copies whole methods that its transform_passes leave out.

    known: the places of the buffers of that name. Raises Unsupported where it may have been any of them.
    """
    if place in known:
        return place
    if len(known) > 1:
        raise Unsupported(
            f"state {use.name}: method {use.method} was copied on its way here, and methods have several buffers of "
            "this name; transform_passes as a dict must name every method, with [] for those without passes"
        )
    (first,) = known
    return first


def _check(group: Sequence[_Use]) -> None:
    """Raises Unsupported where the methods cannot share a state that some of them keep on the device."""
    first = group[0]
    kept = next(use for use in group if not use.outside)
    for use in group:
        where = f"state {use.name}: "
        if use.outside:
            verb = "writes" if use.writes else "reads"
            raise Unsupported(
                f"{where}method {kept.method} keeps it on the device, but method {use.method} {verb} it on the CPU: "
                f"{use.outside}; give that node a form that a rule takes, or give the methods buffers of their own"
            )
        if sum(other.method == use.method for other in group) > 1:
            raise Unsupported(f"{where}method {use.method} has it twice; register the buffer once")
        if use.tensor.shape != first.tensor.shape or use.tensor.dtype is not first.tensor.dtype:
            raise Unsupported(
                f"{where}{use.tensor.dtype} {list(use.tensor.shape)} in method {use.method}, {first.tensor.dtype} "
                f"{list(first.tensor.shape)} in method {first.method}; a shared state has one shape and dtype"
            )

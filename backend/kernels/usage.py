"""What the instructions of an optimized module reach: dead code counts for nothing."""

from __future__ import annotations

from dataclasses import dataclass

from .spirv import Decoration, Module, Opcode, StorageClass

_GLOBALS = (
    StorageClass.UNIFORM_CONSTANT,
    StorageClass.UNIFORM,
    StorageClass.STORAGE_BUFFER,
    StorageClass.PUSH_CONSTANT,
)
CHAINS = (
    Opcode.ACCESS_CHAIN,
    Opcode.IN_BOUNDS_ACCESS_CHAIN,
    Opcode.PTR_ACCESS_CHAIN,
    Opcode.IN_BOUNDS_PTR_ACCESS_CHAIN,
)
# OpAtomicExchange .. OpAtomicXor, OpAtomicFMinEXT, OpAtomicFMaxEXT, OpAtomicFAddEXT
_ATOMICS = (*range(229, 243), 5614, 5615, 6035)
_READS = (Opcode.IMAGE_READ, Opcode.LOAD, Opcode.ATOMIC_LOAD, Opcode.MATRIX_LOAD)
_WRITES = (Opcode.IMAGE_WRITE, Opcode.STORE, Opcode.ATOMIC_STORE, Opcode.MATRIX_STORE)
_USES = frozenset((*CHAINS, *_ATOMICS, *_READS, *_WRITES, Opcode.COPY_MEMORY))
_PASSES_ON = (Opcode.COPY_OBJECT, Opcode.IMAGE_TEXEL_POINTER)
_FLOWS = frozenset((*CHAINS, *_PASSES_ON, Opcode.LOAD, Opcode.SELECT, Opcode.PHI, Opcode.FUNCTION_CALL))
_NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Usage:
    """Bindings whose contents are read or written, offsets of push fields read, specialization ids left.

    loaded: those that are read by anything but atomics.
    """

    read: frozenset[int]
    loaded: frozenset[int]
    written: frozenset[int]
    pushes: frozenset[int]
    specs: frozenset[int]


def usage(module: Module) -> Usage:
    return _Tracer(module).run()


class _Tracer:
    """Follows pointers and image handles from the global variables to the instructions that take them."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.storage: dict[int, int] = {}
        self.roots: dict[int, frozenset[int]] = {}
        self.parameters: dict[int, list[int]] = {}
        self.uses = [item for item in module.instructions if item.opcode in _USES]
        self.flows = [item for item in module.instructions if item.opcode in _FLOWS]
        function = 0
        for item in module.instructions:
            if item.opcode == Opcode.VARIABLE and item.operands[2] in _GLOBALS:
                variable = item.operands[1]
                self.storage[variable] = item.operands[2]
                self.roots[variable] = frozenset({variable})
            elif item.opcode == Opcode.FUNCTION:
                function = item.operands[1]
            elif item.opcode == Opcode.FUNCTION_PARAMETER:
                self.parameters.setdefault(function, []).append(item.operands[1])

    def run(self) -> Usage:
        while self.spread():
            pass
        read: set[int] = set()
        changed: set[int] = set()
        written: set[int] = set()
        pushes: set[int] = set()
        for item in self.uses:
            ops = item.operands
            if item.opcode in _READS:
                loads_handle = item.opcode == Opcode.LOAD and self.is_image(ops[2])
                read |= _NOTHING if loads_handle else self.of(ops[2])
            elif item.opcode in _WRITES:
                written |= self.of(ops[0])
            elif item.opcode == Opcode.COPY_MEMORY:
                written |= self.of(ops[0])
                read |= self.of(ops[1])
            elif item.opcode in _ATOMICS:
                changed |= self.of(ops[2])
            pushes |= self.push_offsets(item.opcode, ops)
        specs = (self.module.decoration(target, Decoration.SPEC_ID) for target in self.module.constants)
        return Usage(
            read=self.bindings(read | changed),
            loaded=self.bindings(read),
            written=self.bindings(written | changed),
            pushes=frozenset(pushes),
            specs=frozenset(number for number in specs if number is not None),
        )

    def spread(self) -> bool:
        """One pass over the instructions; true when it found something new."""
        changed = False
        for item in self.flows:
            for target, sources in self.flow(item.opcode, item.operands):
                found = self.of(target).union(*(self.of(source) for source in sources))
                if found != self.of(target):
                    self.roots[target] = found
                    changed = True
        return changed

    def flow(self, opcode: int, ops: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
        if opcode in CHAINS or opcode in _PASSES_ON:
            return [(ops[1], (ops[2],))]
        if opcode == Opcode.LOAD and self.is_image(ops[2]):
            return [(ops[1], (ops[2],))]
        if opcode == Opcode.SELECT:
            return [(ops[1], ops[3:5])]
        if opcode == Opcode.PHI:
            return [(ops[1], ops[2::2])]
        if opcode == Opcode.FUNCTION_CALL:
            pairs = zip(self.parameters.get(ops[2], []), ops[3:], strict=False)
            return [(parameter, (argument,)) for parameter, argument in pairs]
        return []

    def of(self, target: int) -> frozenset[int]:
        return self.roots.get(target, _NOTHING)

    def is_image(self, pointer: int) -> bool:
        return any(self.storage[variable] == StorageClass.UNIFORM_CONSTANT for variable in self.of(pointer))

    def push_offsets(self, opcode: int, ops: tuple[int, ...]) -> set[int]:
        """Offsets read by an access chain into the push block or by a load of all of it."""
        if opcode not in (*CHAINS, Opcode.LOAD) or self.storage.get(ops[2]) != StorageClass.PUSH_CONSTANT:
            return set()
        block = self.module.types[self.module.pointers[ops[2]]].operands[1]
        members: tuple[int, ...] = tuple(range(len(self.module.types[block].operands)))
        if opcode in CHAINS and (index := self.module.constant(ops[3])) is not None:
            members = (index,)
        return {self.module.decoration(block, Decoration.OFFSET, member) or 0 for member in members}

    def bindings(self, variables: set[int]) -> frozenset[int]:
        numbers = (self.module.decoration(variable, Decoration.BINDING) for variable in variables)
        return frozenset(number for number in numbers if number is not None)

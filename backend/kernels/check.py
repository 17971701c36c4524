"""A variant's SPIR-V against its key and its manifest: what is declared must be what the key says, and be used."""

from __future__ import annotations

from ..errors import ShaderError
from .capabilities import NAMES, matrix_parts, matrix_products, needed, needed_extensions
from .dtypes import DType, Storage
from .facts import FACTS
from .keys import SlotKey, VariantKey
from .manifest import TURNS_BINDING, Algorithm, Io, Manifest, Slot
from .prelude import IMAGE_FORMATS, IMAGE_SAMPLED, element_type, puts_parts
from .reflect import Binding, Interface, reflect
from .spirv import Module, Opcode
from .usage import Usage, usage

_INTEGERS = ("i32", "u32")
_SPEC_TYPES = ("i32", "u32", "bool")
_MATRIX_PARTS = frozenset({"f32x4", "i32x4", "u32x4"})
_UNROLL = 1  # loop control of [[unroll]]; drivers follow it where the count is known to them


def check_variant(
    manifest: Manifest, algorithm: Algorithm, key: VariantKey, *, compiled: Module, optimized: Module
) -> Interface:
    """Compares declarations (`compiled`, with names) and uses (`optimized`) with the key.

    Returns the interface with the capabilities of the optimized module. Raises ShaderError that opens with the
    source file and the key and says what is declared and what was found.
    """
    return _Check(manifest, algorithm, key, reflect(compiled), usage(optimized)).run(optimized)


class _Check:
    def __init__(
        self, manifest: Manifest, algorithm: Algorithm, key: VariantKey, found: Interface, used: Usage
    ) -> None:
        self.manifest = manifest
        self.algorithm = algorithm
        self.key = key
        self.found = found
        self.used = used

    def error(self, what: str) -> ShaderError:
        return ShaderError(f"{self.algorithm.source.name}: {self.key}: {what}")

    def run(self, optimized: Module) -> Interface:
        self.check_unknown_bindings()
        for index, (slot, choice) in enumerate(zip(self.manifest.slots, self.key.slots, strict=True)):
            self.check_slot(index, slot, choice)
        self.check_pushes()
        self.check_local()
        self.check_specs()
        self.check_needs(optimized)
        self.check_products(optimized)
        self.check_parts(optimized)
        self.check_loops(optimized)
        return self.found

    def check_unknown_bindings(self) -> None:
        names = [slot.name for slot in self.manifest.slots]
        seen: set[int] = set()
        turns = [binding for binding in self.found.bindings if binding.binding == TURNS_BINDING]
        self.check_turns(turns)
        for binding in self.found.bindings:
            if binding.set != 0:
                raise self.error(f"{binding.name}: descriptor set 0 declared; found set {binding.set}")
            if binding in turns:
                continue
            if binding.name in names and names.index(binding.name) != binding.binding:
                declared = names.index(binding.name)
                raise self.error(f"slot {binding.name}: binding {declared} declared; found {binding.binding}")
            if binding.name not in names:
                raise self.error(
                    f"binding {binding.binding}: no slot is called {binding.name!r}; slots: {', '.join(names)}"
                )
            if binding.binding in seen:
                raise self.error(
                    f"slot {binding.name}: binding {binding.binding} is declared twice; one variable a slot"
                )
            seen.add(binding.binding)

    def check_turns(self, found: list[Binding]) -> None:
        """An algorithm that takes turns has their counts, as lib/turns.glsl declares them, and no other one has."""
        wanted = [] if self.algorithm.ahead is None else ["turns, a buffer of u32 that is awaited and given"]
        waits, gives = (TURNS_BINDING in used for used in (self.used.loaded, self.used.written))
        said = [
            f"{binding.name}, a {binding.kind} of {binding.element} that is {'' if waits else 'not '}awaited and "
            f"{'' if gives else 'not '}given"
            for binding in found
        ]
        if said != wanted:
            raise self.error(f"binding {TURNS_BINDING}: [{'; '.join(wanted)}] declared; found [{'; '.join(said)}]")

    def check_slot(self, index: int, slot: Slot, choice: SlotKey) -> None:
        found = next((binding for binding in self.found.bindings if binding.binding == index), None)
        where = f"slot {slot.name}"
        if choice.dtype is DType.NONE:
            if found is not None:
                raise self.error(f"{where}: none declared; found binding {index}, a {found.kind} of {found.element}")
            return
        if found is None:
            raise self.error(f"{where}: {choice.dtype.value}:{choice.storage.value} declared; found no binding {index}")
        declared = self.declared(slot, choice)
        if f"{found.kind} of {found.element}" != declared:
            raise self.error(f"{where}: {declared} declared; found {found.kind} of {found.element}")
        if self.algorithm.ahead is not None and slot.name not in self.algorithm.ahead and not found.coherent:
            raise self.error(f"{where}: found a binding that is not coherent; what is not in `ahead` comes by turns")
        self.check_direction(index, slot, found, puts_parts(slot, choice))

    def declared(self, slot: Slot, choice: SlotKey) -> str:
        if choice.storage is Storage.IMAGE:
            return f"image of {IMAGE_FORMATS[choice.dtype]} of {IMAGE_SAMPLED[choice.dtype]}"
        return f"buffer of {element_type(slot, choice)}"

    def check_direction(self, index: int, slot: Slot, found: Binding, puts_parts: bool) -> None:
        where = f"slot {slot.name}"
        if slot.io is Io.IN:
            if found.writable or index in self.used.written:
                raise self.error(f"{where}: io in declared; found a binding that may be written; make it readonly")
            if not found.readable or index not in self.used.read:
                raise self.error(
                    f"{where}: io in declared; found a binding that is never read; read it or drop the slot"
                )
            return
        if slot.io is Io.INOUT:
            self.check_both_directions(index, slot, found)
            return
        if puts_parts and index in self.used.loaded:
            raise self.error(f"{where}: io out declared; found a binding that more than atomics read")
        if not puts_parts and (found.readable or index in self.used.read):
            raise self.error(f"{where}: io out declared; found a binding that may be read; make it writeonly")
        if not found.writable or index not in self.used.written:
            raise self.error(
                f"{where}: io out declared; found a binding that is never written; write it or drop the slot"
            )

    def check_both_directions(self, index: int, slot: Slot, found: Binding) -> None:
        where = f"slot {slot.name}: io inout declared; found a binding that is never"
        if not found.readable or index not in self.used.read:
            raise self.error(f"{where} read; read it and leave writeonly out, or declare io out")
        if not found.writable or index not in self.used.written:
            raise self.error(f"{where} written; write it and leave readonly out, or declare io in")

    def check_pushes(self) -> None:
        found = [f"{field.name} {_kind(field.type)} at {field.offset}" for field in self.found.pushes]
        declared = [
            f"{push.name} {'float' if push.value is None else 'int'} at {4 * i}"
            for i, push in enumerate(self.algorithm.pushes)
        ]
        if found != declared:
            raise self.error(f"push constants: [{', '.join(declared)}] declared; found [{', '.join(found)}]")
        for field in self.found.pushes:
            if field.offset not in self.used.pushes:
                raise self.error(f"push constant {field.name}: never read; use it or drop it from shader and manifest")

    def check_specs(self) -> None:
        found = [f"{spec.name} = id {spec.id}" for spec in self.found.specs]
        declared = [f"{spec.name} = id {i}" for i, spec in enumerate(self.algorithm.specs)]
        if found != declared:
            raise self.error(f"specialization constants: [{', '.join(declared)}] declared; found [{', '.join(found)}]")
        for spec in self.found.specs:
            if spec.type not in _SPEC_TYPES:
                raise self.error(
                    f"specialization constant {spec.name}: {spec.type}; need one of {', '.join(_SPEC_TYPES)}"
                )
            if spec.id not in self.used.specs:
                raise self.error(
                    f"specialization constant {spec.name}: never used; use it or drop it from shader and manifest"
                )

    def check_local(self) -> None:
        if self.found.local_size_specs or self.found.shared_specs:
            what = "the local size" if self.found.local_size_specs else "shared memory"
            raise self.error(
                f"{what} depends on specialization constants; size it by a macro of [constants] or defines"
            )

    def check_needs(self, optimized: Module) -> None:
        need = needed(optimized)
        for capability in self.found.capabilities:
            if capability not in NAMES:
                raise self.error(
                    f"capability {capability}: the player has no device fact for it; add one or do without"
                )
            if capability not in need:
                raise self.error(
                    f"capability {NAMES[capability]}: not needed; drop the extension or the code that asks for it"
                )
        needed_names = needed_extensions(need)
        for extension in self.found.extensions:
            if extension not in needed_names:
                raise self.error(f"extension {extension}: not needed; drop the #extension that asks for it")

    def check_products(self, optimized: Module) -> None:
        """A shape of cooperative matrices that a device does not report computes garbage: the guard must ask for it."""
        asked = {op.name for op in self.algorithm.when.ops} if self.algorithm.when else set()
        for product in sorted(matrix_products(optimized)):
            if product not in FACTS:
                raise self.error(f"product {product}: the player has no device fact for it; add one or do without")
            if product not in asked:
                raise self.error(f"product {product}: the guard does not ask for it; add device.{product} to when")

    def check_parts(self, optimized: Module) -> None:
        """Vulkan: what a matrix is loaded from lies at a multiple of 16 bytes.

        A driver puts an array wherever its elements may lie, and of one that lies elsewhere it reads the neighbours.
        """
        for part in sorted(matrix_parts(optimized) - _MATRIX_PARTS):
            raise self.error(f"a matrix in shared memory of {part}; use elements of 16 bytes, such as uvec4")

    def check_loops(self, optimized: Module) -> None:
        """A driver may end long loops early and silently (docs/design.md, Loops): the guard must know their length."""
        loops = [item.operands for item in optimized.instructions if item.opcode == Opcode.LOOP_MERGE]
        counted = [operands for operands in loops if not operands[2] & _UNROLL]
        if counted and self.algorithm.iterations is None:
            raise self.error(f"{len(counted)} loops that nothing unrolls; say `iterations`, at most, in the manifest")


def _kind(text: str) -> str:
    return "int" if text in _INTEGERS else "float" if text == "f32" else text

"""A kernel manifest as frozen data. manifest_reader.py makes it from TOML."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .dtypes import DType, Storage
from .expr import Expr
from .where import Where

MAX_PUSH_BYTES = 128
MAX_SLOTS = 32
TURNS_BINDING = MAX_SLOTS  # behind those of the slots
TURN_PUSHES = ("turn", "awaited")  # the last ones of an algorithm that takes turns; the player sets them
GRID_FOLD = 32768  # workgroups along one dimension; the rest goes into the next one
MOST_ITERATIONS = 50_000  # of one invocation's loops, which every driver runs to their ends

# Views name what a buffer slot is read as, apart from its dtype: scalar, or a vector of 2 or 4.
VIEWS = tuple(f"{scalar}{size}" for scalar in ("f32", "f16", "i32", "u32", "i8", "u8") for size in ("", "x2", "x4"))


class Io(Enum):
    IN = "in"
    OUT = "out"
    INOUT = "inout"  # written in place: what it held before the call is read, too


class ValueKind(Enum):
    INT = "int"
    FLOAT = "float"


@dataclass(frozen=True, slots=True)
class Slot:
    name: str
    io: Io
    dtypes: tuple[DType, ...]
    storages: tuple[Storage, ...]
    optional: bool = False
    view: str | None = None
    views: tuple[tuple[DType, str], ...] = ()
    atomic: bool = False  # elements are put into the words of its view by atomics

    def element(self, dtype: DType) -> str:
        """What a buffer of this dtype is read as: the dtype's own view, the slot's view, or the dtype."""
        return dict(self.views).get(dtype) or self.view or dtype.value


@dataclass(frozen=True, slots=True)
class AttrDecl:
    """operators: the name of what an integer attribute chooses from; "": it is a number.

    One that the manifest declares as `stride = "int[4]"` is four, stride0 to stride3.
    """

    name: str
    kind: ValueKind
    operators: str = ""


@dataclass(frozen=True, slots=True)
class Operators:
    """What an attribute chooses from, numbered from 0."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """Specialization constant; its id is its position."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Push:
    """A 4-byte push constant at 4 * position: an integer expression, or (value None) the float attribute `attr`."""

    name: str
    value: Expr | None
    attr: str = ""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """when: the guard, with the limit on iterations where they grow with the shape."""

    name: str
    source: Path
    when: Expr | None
    defines: tuple[tuple[str, int], ...]
    grid: tuple[Expr, Expr, Expr]
    specs: tuple[Spec, ...]
    pushes: tuple[Push, ...]
    unroll: bool = False  # spirv-opt unrolls the loops marked [[unroll]]
    where: tuple[Where, ...] = ()  # which of the kernel's variants this algorithm has
    iterations: Expr | None = None  # at most, of one invocation's loops that nothing unrolls, together
    ahead: tuple[str, ...] | None = None  # it takes turns (lib/turns.glsl), and may read these slots before its own


@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    path: Path
    doc: str
    slots: tuple[Slot, ...]
    attrs: tuple[AttrDecl, ...]
    operators: tuple[Operators, ...]
    where: tuple[Where, ...]
    constants: tuple[tuple[str, int], ...]  # declared ones alone
    algorithms: tuple[Algorithm, ...]
    aliases: tuple[str, ...] = ()  # names that older Programs call it by

    def macros(self) -> tuple[tuple[str, int], ...]:
        """The constants, and for each attribute that chooses from operators their numbers: OP_SILU of attribute op."""
        members = {item.name: item.members for item in self.operators}
        chosen = [
            (f"{attr.name.upper()}_{member}", number)
            for attr in self.attrs
            for number, member in enumerate(members.get(attr.operators, ()))
        ]
        return (*self.constants, *chosen)

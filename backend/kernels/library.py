"""The one writer and the one reader of the kernel library flatbuffer (library.fbs)."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flatbuffers

from ..errors import ShaderError
from ..serialization._generated import common_generated as common
from ..serialization._generated import library_generated as fb
from .cache import CompiledVariant
from .dtypes import DType, Storage
from .expr import Expr, OpCode
from .keys import SlotKey, VariantKey
from .manifest import Algorithm, Io, Manifest, Push, ValueKind

IDENTIFIER = b"ZPL1"
VERSION = 4
_CHAIN = 4  # modules to decode before one, at most
_COMPARED = 128  # modules of an algorithm, up to which each is compared with all before it
_WINDOW = 1 << 15  # as far back as deflate looks
_BLOCK = 1 << 14
_AHEAD = 1 << 13  # of a block, in its dictionary


@dataclass(frozen=True, slots=True)
class LibrarySummary:
    """What a library holds.

    hash: of its content. facts: the device facts that guards use. variants: in picking order. outputs: by kernel, the
    slots that it writes. sources: by kernel and algorithm, the shader's file and its macros.
    """

    version: int
    hash: str
    facts: tuple[str, ...]
    variants: tuple[VariantKey, ...]
    outputs: Mapping[str, frozenset[str]]
    sources: Mapping[tuple[str, str], str]
    n_modules: int
    spirv_bytes: int


def write_library(manifests: Sequence[Manifest], variants: Mapping[VariantKey, CompiledVariant]) -> bytes:
    """Serializes the kernels. Equal inputs give equal bytes. Identical SPIR-V is stored once.

    variants: every key of every algorithm, see kernels.keys.variant_keys.
    """
    return _Writer(manifests, variants).run()


def read_library(data: bytes) -> LibrarySummary:
    """Raises ShaderError on bytes that are no kernel library of this version."""
    if data[4:8] != IDENTIFIER:
        raise ShaderError(f"kernel library: identifier {data[4:8]!r}; need {IDENTIFIER!r}; not a kernel library")
    try:
        root = fb.Library.GetRootAs(data)
        if root.Version() != VERSION:
            raise ShaderError(f"kernel library: version {root.Version()}; this package reads {VERSION}; build it again")
        return _summary(root)
    except (struct.error, IndexError, ValueError, AttributeError, TypeError, OverflowError, MemoryError) as error:
        raise ShaderError(
            f"kernel library: malformed flatbuffer ({error}); the bytes are damaged; build it again"
        ) from error


def _summary(root: fb.Library) -> LibrarySummary:
    keys = []
    outputs, sources = {}, {}
    for kernel in (root.Kernels(i) for i in range(root.KernelsLength())):
        declared = [kernel.Slots(i) for i in range(kernel.SlotsLength())]
        slots, name = [slot.Name().decode() for slot in declared], kernel.Name().decode()
        outputs[name] = frozenset(slot.Name().decode() for slot in declared if slot.Io() == fb.Io.output)
        for algorithm in (kernel.Algorithms(i) for i in range(kernel.AlgorithmsLength())):
            sources[name, algorithm.Name().decode()] = algorithm.Source().decode()
            for variant in (algorithm.Variants(i) for i in range(algorithm.VariantsLength())):
                choices = tuple(
                    SlotKey(slot, DType(_DTYPES[variant.Dtypes(i)]), Storage(_STORAGES[variant.Storages(i)]))
                    for i, slot in enumerate(slots)
                )
                keys.append(VariantKey(name, algorithm.Name().decode(), choices))
    sizes = [root.Modules(i).Size() for i in range(root.ModulesLength())]
    return LibrarySummary(
        version=root.Version(),
        hash=root.Hash().decode(),
        facts=tuple(root.Facts(i).decode() for i in range(root.FactsLength())),
        variants=tuple(keys),
        outputs=outputs,
        sources=sources,
        n_modules=len(sizes),
        spirv_bytes=sum(sizes),
    )


def _source(algorithm: Algorithm) -> str:
    macros = " ".join(f"{name}={value}" for name, value in algorithm.defines)
    return f"{algorithm.source.name} with {macros}" if macros else algorithm.source.name


def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if not name.startswith("_")}


_DTYPES = _names(common.DType)
_STORAGES = _names(common.Storage)


def _make(cls: type, **fields: object) -> object:
    item = cls()
    for name, value in fields.items():
        setattr(item, name, value)
    return item


class _Module(fb.ModuleT):
    """A module whose bytes are copied in one piece: the generated code takes one call a byte."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        data = builder.CreateByteVector(self.data)
        fb.ModuleStart(builder)
        fb.ModuleAddSize(builder, self.size)
        fb.ModuleAddBase(builder, self.base)
        fb.ModuleAddData(builder, data)
        return int(fb.ModuleEnd(builder))


def _dictionary(base: bytes, offset: int) -> bytes:
    """The part of a module that is the dictionary of another one's block: what lies around the same place."""
    start = min(max(offset - _AHEAD, 0), max(len(base) - _WINDOW, 0))
    return base[start : start + _WINDOW]


def _deflate(spirv: bytes, base: bytes, level: int = 9) -> bytes:
    """One zlib stream a block, so that the whole of a long module has its like within reach."""
    streams = []
    for offset in range(0, len(spirv), _BLOCK):
        dictionary = _dictionary(base, offset)
        packer = zlib.compressobj(level, zdict=dictionary) if dictionary else zlib.compressobj(level)
        streams.append(packer.compress(spirv[offset : offset + _BLOCK]) + packer.flush())
    return b"".join(streams)


def read_spirv(library: fb.Library, module: int) -> bytes:
    """The SPIR-V of a module, as the player decodes it."""
    stored = library.Modules(module)
    base = read_spirv(library, stored.Base()) if stored.Base() >= 0 else b""
    left, spirv = stored.DataAsNumpy().tobytes(), b""
    while left:
        unpacker = zlib.decompressobj(zdict=_dictionary(base, len(spirv)))
        spirv += unpacker.decompress(left)
        left = unpacker.unused_data
    return spirv


class _Writer:
    def __init__(self, manifests: Sequence[Manifest], variants: Mapping[VariantKey, CompiledVariant]) -> None:
        self.manifests = manifests
        self.variants = variants
        self.facts: list[str] = []
        self.modules: dict[bytes, int] = {}  # SPIR-V -> its index
        self.bases: list[int] = []  # of each module, the one that is its dictionary, or -1
        self.depths: list[int] = []  # of each module, how many are decoded before it

    def run(self) -> bytes:
        root = fb.LibraryT()
        root.version = VERSION
        root.kernels = [self.kernel(manifest) for manifest in self.manifests]
        root.facts = self.facts
        root.modules = self.packed_modules()
        root.hash = hashlib.sha256(pack_library(root)).hexdigest()
        return pack_library(root)

    def kernel(self, manifest: Manifest) -> object:
        slots = [slot.name for slot in manifest.slots]
        attrs = [attr.name for attr in manifest.attrs]
        # To the player a slot that a call writes is an output, whatever else: its hazards are a write's.
        directions = {Io.IN: fb.Io.input, Io.OUT: fb.Io.output, Io.INOUT: fb.Io.output}
        kinds = {ValueKind.INT: fb.ValueKind.integer, ValueKind.FLOAT: fb.ValueKind.real}
        return _make(
            fb.KernelT,
            name=manifest.name,
            doc=manifest.doc,
            slots=[
                _make(fb.SlotT, name=slot.name, io=directions[slot.io], optional=slot.optional)
                for slot in manifest.slots
            ],
            attrs=[_make(fb.AttrDeclT, name=attr.name, kind=kinds[attr.kind]) for attr in manifest.attrs],
            algorithms=[self.algorithm(manifest, algorithm, slots, attrs) for algorithm in manifest.algorithms],
            aliases=list(manifest.aliases),
        )

    def algorithm(self, manifest: Manifest, algorithm: Algorithm, slots: list[str], attrs: list[str]) -> object:
        compiled = [
            variant
            for key, variant in self.variants.items()
            if (key.kernel, key.algorithm) == (manifest.name, algorithm.name)
        ]
        self.add_modules(compiled)
        return _make(
            fb.AlgorithmT,
            name=algorithm.name,
            when=None if algorithm.when is None else self.expr(algorithm.when, slots, attrs),
            grid=[self.expr(expr, slots, attrs) for expr in algorithm.grid],
            localSize=list(compiled[0].local_size),
            specs=[
                _make(fb.SpecT, id=i, name=spec.name, value=self.expr(spec.value, slots, attrs))
                for i, spec in enumerate(algorithm.specs)
            ],
            push=[self.push(i, push, slots, attrs) for i, push in enumerate(algorithm.pushes)],
            variants=[self.variant(variant) for variant in compiled],
            source=_source(algorithm),
            ahead=None if algorithm.ahead is None else [slots.index(name) for name in algorithm.ahead],
        )

    def push(self, index: int, push: Push, slots: list[str], attrs: list[str]) -> object:
        if push.value is None:
            kind, attr = fb.ValueKind.real, attrs.index(push.attr)
            return _make(fb.PushT, name=push.name, offset=4 * index, kind=kind, attr=attr)
        value = self.expr(push.value, slots, attrs)
        return _make(fb.PushT, name=push.name, offset=4 * index, kind=fb.ValueKind.integer, value=value)

    def variant(self, variant: CompiledVariant) -> object:
        return _make(
            fb.VariantT,
            dtypes=[getattr(common.DType, choice.dtype.value) for choice in variant.key.slots],
            storages=[getattr(common.Storage, choice.storage.value) for choice in variant.key.slots],
            bindings=[_make(fb.BindingT, slot=index, binding=index) for index in variant.bindings],
            capabilities=list(variant.capabilities),
            pushBytes=variant.push_bytes,
            sharedBytes=variant.shared_bytes,
            module=self.modules[variant.spirv],
        )

    def add_modules(self, compiled: Sequence[CompiledVariant]) -> None:
        """Numbers an algorithm's modules; each has the most alike of earlier ones as its dictionary.

        Where there are many, each is compared with few: keys count through their slots, so modules that differ in one
        slot lie a power of two apart, or nearly.
        """
        modules = dict.fromkeys(variant.spirv for variant in compiled)
        earlier: list[bytes] = []
        for spirv in modules:
            if spirv in self.modules:
                continue
            places = set(range(len(earlier)))
            if len(modules) > _COMPARED:
                places &= {0, *(len(earlier) - (1 << step) for step in range(len(earlier).bit_length()))}
            likes = [earlier[place] for place in sorted(places)]
            base = self.most_alike(spirv, [like for like in likes if self.depths[self.modules[like]] < _CHAIN])
            self.modules[spirv] = len(self.bases)
            self.bases.append(base)
            self.depths.append(self.depths[base] + 1 if base >= 0 else 0)
            earlier.append(spirv)

    def most_alike(self, spirv: bytes, modules: Sequence[bytes]) -> int:
        """The one of `modules` with which this is shortest, by the fastest packing; -1 where there are none."""
        like = min(modules, key=lambda module: len(_deflate(spirv, module, level=1)), default=None)
        return -1 if like is None else self.modules[like]

    def packed_modules(self) -> list[object]:
        spirv = list(self.modules)
        return [
            _make(_Module, size=len(data), base=base, data=_deflate(data, spirv[base] if base >= 0 else b""))
            for data, base in zip(spirv, self.bases, strict=True)
        ]

    def expr(self, expr: Expr, slots: list[str], attrs: list[str]) -> object:
        ops = []
        for op in expr.ops:
            arg = 0
            if op.code is OpCode.ATTR:
                arg = attrs.index(op.name)
            elif op.code is OpCode.FACT:
                arg = self.fact(op.name)
            elif op.name:
                arg = slots.index(op.name)
            ops.append(_make(fb.OpT, value=op.value, arg=arg, code=getattr(fb.OpCode, op.code.value)))
        return _make(fb.ExprT, ops=ops, text=expr.text)

    def fact(self, name: str) -> int:
        if name not in self.facts:
            self.facts.append(name)
        return self.facts.index(name)


def pack_library(root: fb.LibraryT) -> bytes:
    """The bytes of a library as objects."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(root.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())

"""Compiled variants on disk, by content.

An entry's name is the hash of all that its making depends on, this package's own checks included; an entry exists only
when every check passed, so a hit needs no further work. A damaged entry is made again. Removing the folder is safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ShaderError
from ..files import replace_file
from .keys import VariantKey
from .manifest import Algorithm, Manifest
from .prelude import prelude
from .toolchain import TARGET

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_FIELDS = ("bindings", "capabilities", "local_size", "push_bytes", "shared_bytes")


@dataclass(frozen=True, slots=True)
class Job:
    manifest: Manifest
    algorithm: Algorithm
    key: VariantKey


@dataclass(frozen=True, slots=True)
class CompiledVariant:
    """`bindings` are the slot indices that are bound; a slot's index is its binding number."""

    key: VariantKey
    spirv: bytes
    bindings: tuple[int, ...]
    capabilities: tuple[int, ...]
    local_size: tuple[int, int, int]
    push_bytes: int
    shared_bytes: int


def default_cache_dir(shaders: Path) -> Path:
    """$ZEROPOINT_SHADER_CACHE, or `.cache/shaders` beside the folder of the shaders."""
    chosen = os.environ.get("ZEROPOINT_SHADER_CACHE")
    return Path(chosen) if chosen else shaders.resolve().parent / ".cache" / "shaders"


class ShaderCache:
    """One build's view of the cache folder: every source is read once. Safe for several threads and processes."""

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._tools = f"{identity}\n{TARGET}\n{_own_sources()}"
        self._sources: dict[Path, str] = {}

    def name(self, job: Job) -> str:
        """Hash of the tools, the source with its includes, the macros and all that is checked."""
        before = prelude(job.manifest, job.algorithm, job.key)
        content = [
            self._tools,
            self._source(job.algorithm.source, job.manifest.path.parent / "lib"),
            before.macros,
            before.extensions,
            [
                [slot.io.value, slot.element(choice.dtype), str(choice)]
                for slot, choice in zip(job.manifest.slots, job.key.slots, strict=True)
            ],
            [[push.name, push.value is None] for push in job.algorithm.pushes],
            [spec.name for spec in job.algorithm.specs],
            job.algorithm.unroll,
            job.algorithm.ahead,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read(self, name: str, key: VariantKey) -> CompiledVariant | None:
        try:
            header, _, data = (self._folder / name).read_bytes().partition(b"\n")
            fields = json.loads(header)
            if fields["sha256"] != hashlib.sha256(data).hexdigest():
                return None
            bindings, capabilities, local_size, push_bytes, shared_bytes = (fields[field] for field in _FIELDS)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        x, y, z = local_size
        return CompiledVariant(key, data, tuple(bindings), tuple(capabilities), (x, y, z), push_bytes, shared_bytes)

    def write(self, name: str, variant: CompiledVariant) -> None:
        header: dict[str, object] = {field: getattr(variant, field) for field in _FIELDS}
        header["sha256"] = hashlib.sha256(variant.spirv).hexdigest()
        # Algorithms of one source have one name, and are compiled at the same time.
        replace_file(self._folder / name, lambda file: file.write(json.dumps(header).encode() + b"\n" + variant.spirv))

    def _source(self, path: Path, lib: Path) -> str:
        """Text of a shader with that of everything it includes, in the order of first mention."""
        if path not in self._sources:
            self._sources[path] = "\0".join(_closure(path, lib))
        return self._sources[path]


def _closure(path: Path, lib: Path) -> list[str]:
    texts: list[str] = []
    waiting = [path]
    seen: set[Path] = set()
    while waiting:
        current = waiting.pop(0)
        if current in seen:
            continue
        seen.add(current)
        try:
            text = current.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ShaderError(f"{current.name}: {error}") from error
        texts += [current.name, text]
        for name in _INCLUDE.findall(text):
            # glslang looks beside the includer first; a name found nowhere is its error to report.
            waiting += [place for place in (current.parent / name, lib / name) if place.is_file()][:1]
    return texts


def _own_sources() -> str:
    """Hash of this package: a cached pass is worth what the checks of its day were."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()

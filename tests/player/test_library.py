"""Kernel libraries: modules that cannot be decoded, and pipelines that nobody holds any more."""

from __future__ import annotations

import numpy as np
import pytest

from tests.misaligned import misaligned
from tests.signatures import signature
from tests.unit.kernels.tiny import write_tree
from zeropoint.errors import RuntimeFailure
from zeropoint.kernels.build import build_library
from zeropoint.kernels.library import pack_library
from zeropoint.program import Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.program.io import write_program
from zeropoint.runtime.devices import devices
from zeropoint.runtime.player import LoadedProgram, counters, verify_blob
from zeropoint.serialization._generated import library_generated as fb

KEPT = 64  # kMaxPipelines of pipelines.cpp
CHAIN = "need an earlier module, and at most 4 to decode before one"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The tiny kernel: 16 modules, all but the first with an earlier one as dictionary."""
    devices()  # the layers are on once Vulkan is
    folder = tmp_path_factory.mktemp("library")
    return build_library(write_tree(folder / "shaders"), cache_dir=folder / "cache")


def tiny(step: int) -> Program:
    """y = 2 x - zp[i / step]."""
    b = ProgramBuilder(signature("tiny", "x zp", "y", eps="float", step="int"))
    x, zp, y = (b.tensor(name, "f32", [4]) for name in ("x", "zp", "y"))
    b.input(x)
    b.input(zp)
    b.call("tiny", {"x": x, "zp": zp, "y": y}, {"eps": 2.0, "step": step})
    b.output(y)
    return b.build()[0]


def run(loaded: LoadedProgram) -> list[float]:
    x = np.array([1, 2, 3, 4], np.float32)
    return list(loaded.execute([x, x])[0])


def damaged(library: bytes, module: int, **fields: object) -> bytes:
    root = fb.LibraryT.InitFromObj(fb.Library.GetRootAs(library))
    for name, value in fields.items():
        setattr(root.modules[module], name, value)
    return pack_library(root)


@pytest.mark.parametrize(
    ("module", "fields", "text"),
    [
        (3, {"size": 0}, "module 3: 0 bytes are no SPIR-V"),
        (0, {"size": 1 << 30}, f"module 0: {1 << 30} bytes are no SPIR-V"),
        (5, {"size": 1026}, "module 5: 1026 bytes are no SPIR-V"),
        (4, {"data": None}, r"module 4: \d+ bytes are no SPIR-V"),
        (0, {"base": 0}, f"module 0: dictionary 0; {CHAIN}"),
        (5, {"base": 9}, f"module 5: dictionary 9; {CHAIN}"),
        (5, {"base": 5}, f"module 5: dictionary 5; {CHAIN}"),
    ],
)
def test_a_module_that_cannot_be_is_refused(library: bytes, module: int, fields: dict[str, object], text: str) -> None:
    with pytest.raises(RuntimeFailure, match=rf"^kernel library: {text}$"):
        verify_blob(write_program(tiny(1)), library=damaged(library, module, **fields))


@pytest.mark.parametrize("size", [0, 1 << 16, (1 << 32) - 1])
@pytest.mark.parametrize("axis", range(3))
def test_a_local_size_that_cannot_be_is_refused(library: bytes, axis: int, size: int) -> None:
    """Three large ones would overflow when their invocations are counted."""
    root = fb.LibraryT.InitFromObj(fb.Library.GetRootAs(library))
    algorithm = root.kernels[0].algorithms[0]
    algorithm.localSize = [size if i == axis else 1 for i in range(3)]
    with pytest.raises(RuntimeFailure, match=r"^kernel library: tiny/\w+: a local size that is not from 1 to 65535$"):
        verify_blob(write_program(tiny(1)), library=pack_library(root))


def test_five_modules_before_one_are_refused(library: bytes) -> None:
    """The player decodes a module's dictionary before the module."""
    for module in range(1, 6):
        library = damaged(library, module, base=module - 1)
    with pytest.raises(RuntimeFailure, match=f"^kernel library: module 5: dictionary 4; {CHAIN}$"):
        verify_blob(write_program(tiny(1)), library=library)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"data": b"\0" * 99}, r"a module of \d+ bytes cannot be decoded \(zlib -3\); the library is damaged"),
        ({"data": b"\x78"}, r"a module of \d+ bytes cannot be decoded \(zlib -5\); the library is damaged"),
        ({"size": 64}, r"a module of 64 bytes cannot be decoded \(zlib -5\); the library is damaged"),
        ({"size": 1 << 15}, r"a module of 32768 bytes cannot be decoded \(zlib -5\); the library is damaged"),
        ({"base": -1}, r"a module of \d+ bytes cannot be decoded \(zlib -3\); the library is damaged"),
    ],
)
def test_a_module_that_cannot_be_decoded_is_an_error(library: bytes, fields: dict[str, object], text: str) -> None:
    for module in range(1, 16):
        library = damaged(library, module, **fields)
    with LoadedProgram(tiny(1), library=library) as loaded, pytest.raises(RuntimeFailure, match=rf"{text}$"):
        run(loaded)


def test_pipelines_that_nobody_holds_are_few(library: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "max_push_bytes=4096")  # no limit: a context of its own, without pipelines
    before = counters()["pipelines"]
    with LoadedProgram(tiny(1), library=library) as first:
        assert run(first) == [1, 2, 3, 4]
        for step in range(2, KEPT + 10):
            with LoadedProgram(tiny(step), library=library) as other:
                assert run(other)[0] == 1
        assert counters()["pipelines"] <= before + KEPT
        assert run(first) == [1, 2, 3, 4]
    with LoadedProgram(tiny(2), library=library) as again:
        assert run(again) == [1, 3, 4, 6]


def test_operations_that_may_not_be_read_where_they_lie(library: bytes) -> None:
    expression = fb.Library.GetRootAs(library).Kernels(0).Algorithms(0).Grid(0)
    moved = misaligned(library, expression, field=0, item_bytes=16)
    with pytest.raises(
        RuntimeFailure, match=r"^kernel library: .*: operations at an address that is no multiple of 8$"
    ):
        verify_blob(write_program(tiny(1)), library=moved)

"""The library file: deterministic, complete, readable; and the command that makes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flatbuffers
import pytest

from zeropoint.errors import ShaderError
from zeropoint.kernels import __main__ as command
from zeropoint.kernels.build import build_library, check_local_sizes, list_kernels, plan
from zeropoint.kernels.cache import CompiledVariant
from zeropoint.kernels.dtypes import DType, Storage
from zeropoint.kernels.keys import SlotKey, VariantKey
from zeropoint.kernels.library import read_library, read_spirv, write_library
from zeropoint.kernels.manifest_reader import load_manifests
from zeropoint.serialization._generated import library_generated as fb

from .tiny import MANIFEST, SHADER, replaced, write_tree

REPOSITORY = Path(__file__).parents[3]
TWO = """
[[algorithm]]
name = "second"
source = "tiny.comp"
when = "device.subgroup_size > 8 and device.int8_dot"
grid = ["1", "1", "1"]
spec = { STEP = "1" }
push = { n = "dim(x, -1) // -2", eps = "attr(eps)" }
"""


@pytest.fixture
def shaders(tmp_path: Path) -> Path:
    """Two algorithms with equal shaders: 16 variants each, 16 modules."""
    return write_tree(tmp_path / "shaders", manifest=MANIFEST + TWO)


@pytest.fixture
def library(shaders: Path, tmp_path: Path) -> bytes:
    return build_library(shaders, cache_dir=tmp_path / "cache", workers=2)


def test_content(library: bytes) -> None:
    root = fb.LibraryT.InitFromObj(fb.Library.GetRootAs(library))
    assert (root.version, root.facts) == (4, [b"subgroup_size", b"int8_dot"])
    (kernel,) = root.kernels
    assert (kernel.name, kernel.doc) == (b"tiny", b"y = x * eps - zp + bias")
    assert [(slot.name, slot.io, slot.optional) for slot in kernel.slots] == [
        (b"x", fb.Io.input, False),
        (b"zp", fb.Io.input, False),
        (b"bias", fb.Io.input, True),
        (b"y", fb.Io.output, False),
    ]
    assert [(attr.name, attr.kind) for attr in kernel.attrs] == [
        (b"eps", fb.ValueKind.real),
        (b"step", fb.ValueKind.integer),
    ]
    first, second = kernel.algorithms
    assert (first.name, second.name) == (b"only", b"second")
    assert list(first.localSize) == [64, 1, 1]
    assert [(spec.id, spec.name) for spec in first.specs] == [(0, b"STEP")]
    assert [(op.code, op.arg) for op in first.specs[0].value.ops] == [(fb.OpCode.attr, 1)]
    assert [(push.name, push.offset, push.kind, push.attr) for push in first.push] == [
        (b"n", 0, fb.ValueKind.integer, 0),
        (b"eps", 4, fb.ValueKind.real, 0),
    ]
    assert first.push[1].value is None
    assert second.when.text == b"device.subgroup_size > 8 and device.int8_dot"
    assert [(op.code, op.arg, op.value) for op in second.when.ops] == [
        (fb.OpCode.fact, 0, 0),
        (fb.OpCode.push, 0, 8),
        (fb.OpCode.gt, 0, 0),
        (fb.OpCode.fact, 1, 0),
        (fb.OpCode.logical_and, 0, 0),
    ]
    assert [(op.code, op.arg, op.value) for op in second.push[0].value.ops] == [
        (fb.OpCode.dim, 0, -1),
        (fb.OpCode.push, 0, -2),
        (fb.OpCode.div, 0, 0),
    ]


def test_variants(library: bytes) -> None:
    stored = fb.Library.GetRootAs(library)
    root = fb.LibraryT.InitFromObj(stored)
    variant = root.kernels[0].algorithms[0].variants[1]  # zp=i8:buffer, bias=none
    assert list(variant.dtypes) == [1, 4, 0, 1]
    assert list(variant.storages) == [1, 1, 0, 1]
    assert [(binding.slot, binding.binding) for binding in variant.bindings] == [(0, 0), (1, 1), (3, 3)]
    assert list(variant.capabilities) == [1, 4448]
    assert (variant.pushBytes, variant.sharedBytes) == (8, 0)
    spirv = read_spirv(stored, variant.module)
    assert spirv[:4] == (0x07230203).to_bytes(4, "little")
    assert len(spirv) == root.modules[variant.module].size


def test_modules_are_compressed_beside_their_like(library: bytes) -> None:
    """The first has no dictionary; the others of its algorithm have an earlier one, and are then small."""
    modules = fb.LibraryT.InitFromObj(fb.Library.GetRootAs(library)).modules
    bases = [module.base for module in modules]
    assert bases[0] == -1
    assert all(0 <= base < index for index, base in enumerate(bases) if index)
    assert len(set(bases)) > 3  # the most alike, not always the first
    assert max(len(module.data) / module.size for module in modules[1:]) < 0.3
    assert sum(len(module.data) for module in modules) < 0.2 * sum(module.size for module in modules)
    assert read_library(library).spirv_bytes == sum(module.size for module in modules)


def test_equal_spirv_is_stored_once(library: bytes) -> None:
    summary = read_library(library)
    assert (len(summary.variants), summary.n_modules) == (32, 16)
    root = fb.LibraryT.InitFromObj(fb.Library.GetRootAs(library))
    first, second = root.kernels[0].algorithms
    assert [variant.module for variant in first.variants] == [variant.module for variant in second.variants]


def test_equal_inputs_give_equal_bytes(shaders: Path, library: bytes, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "elsewhere" / "shaders", manifest=MANIFEST + TWO)
    assert build_library(other, cache_dir=tmp_path / "other-cache", workers=1) == library


def test_the_hash_changes_with_the_content(shaders: Path, library: bytes, tmp_path: Path) -> None:
    manifest = shaders / "tiny.toml"
    manifest.write_text(replaced(manifest.read_text(), ("rows(x) <= 8", "rows(x) <= 9")))
    other = read_library(build_library(shaders, cache_dir=tmp_path / "cache"))
    assert len(other.hash) == 64
    assert other.hash != read_library(library).hash


def test_listing(library: bytes) -> None:
    lines = list_kernels(library).splitlines()
    assert lines[:4] == [
        "tiny",
        "  only: 16 variants of tiny.comp",
        "    tiny/only[x=f32:buffer,zp=i8:buffer,bias=f32:buffer,y=f32:buffer]",
        "    tiny/only[x=f32:buffer,zp=i8:buffer,bias=none,y=f32:buffer]",
    ]
    assert lines[18:20] == [
        "  second: 16 variants of tiny.comp",
        "    tiny/second[x=f32:buffer,zp=i8:buffer,bias=f32:buffer,y=f32:buffer]",
    ]
    assert lines[-1].startswith("32 variants, 16 modules, ")
    assert lines[-1].endswith(" bytes of SPIR-V; device facts: subgroup_size, int8_dot")
    assert len(lines) == 1 + 2 * 17 + 1


def test_reading_something_else(library: bytes) -> None:
    with pytest.raises(ShaderError) as error:
        read_library(b"")
    assert str(error.value) == "kernel library: identifier b''; need b'ZPL1'; not a kernel library"
    with pytest.raises(
        ShaderError, match=r"^kernel library: malformed flatbuffer \(.*; the bytes are damaged; build it again$"
    ):
        read_library(library[:60])


def test_reading_another_version(library: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeropoint.kernels.library.VERSION", 5)
    with pytest.raises(ShaderError) as error:
        read_library(library)
    assert str(error.value) == "kernel library: version 4; this package reads 5; build it again"


def test_an_algorithm_has_one_local_size(tmp_path: Path) -> None:
    changed = replaced(
        SHADER, ("local_size_x = LANES", "local_size_x = LANES + ZP_BINDING * (0\n#ifdef ZP_IMAGE\n+ 1\n#endif\n)")
    )
    shaders = write_tree(tmp_path / "shaders", shader=changed)
    with pytest.raises(ShaderError) as error:
        build_library(shaders, cache_dir=tmp_path / "cache")
    assert str(error.value) == (
        "tiny/only[x=f32:buffer,zp=i8:image,bias=f32:buffer,y=f32:buffer]: local size (65, 1, 1); "
        "tiny/only[x=f32:buffer,zp=i8:buffer,bias=f32:buffer,y=f32:buffer] has (64, 1, 1); "
        "an algorithm has one, make two algorithms"
    )


def test_local_sizes_of_different_algorithms_may_differ() -> None:
    def variant(algorithm: str, x: int) -> CompiledVariant:
        key = VariantKey("k", algorithm, (SlotKey("x", DType.F32, Storage.BUFFER),))
        return CompiledVariant(key, b"", (0,), (), (x, 1, 1), 0, 0)

    check_local_sizes((variant("a", 1), variant("b", 2)))


def test_every_variant_is_written(shaders: Path, library: bytes) -> None:
    assert read_library(library).variants == tuple(job.key for job in plan(load_manifests(shaders)))


def test_a_missing_variant_is_our_bug(shaders: Path) -> None:
    with pytest.raises(IndexError):
        write_library(load_manifests(shaders), {})


def test_command(shaders: Path, tmp_path: Path, library: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "kernels.zpl"
    options = ["--shaders", str(shaders), "--out", str(out), "--cache", str(tmp_path / "cache"), "--jobs", "1"]
    out.parent.mkdir()
    out.with_name("kernels.zpl.partial").symlink_to(tmp_path / "not_ours")
    assert command.main(["build", *options]) == 0
    assert out.read_bytes() == library
    assert not (tmp_path / "not_ours").exists()
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{out}: {len(library)} bytes in ")
    assert captured.err.splitlines()[-1] == "shader variants: 32/32"
    assert len(captured.err.splitlines()) == 10
    assert command.main(["list", str(out)]) == 0
    assert capsys.readouterr().out == list_kernels(library) + "\n"


def test_command_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["build", "--shaders", str(tmp_path), "--out", str(tmp_path / "a")]) == 1
    assert (
        capsys.readouterr().err == f"error: {tmp_path}: no manifests (*.toml) found; name the folder of the shaders\n"
    )
    assert command.main(["list", str(tmp_path / "none.zpl")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_the_build_needs_flatbuffers_and_the_compilers_only(shaders: Path, tmp_path: Path, library: bytes) -> None:
    """As in the wheel's build environment: this interpreter without its site-packages."""
    packages = tmp_path / "packages"
    packages.mkdir()
    prefix = next(Path(folder) / "cmeel.prefix" for folder in sys.path if (Path(folder) / "cmeel.prefix").is_dir())
    (packages / "cmeel.prefix").symlink_to(prefix)
    (packages / "flatbuffers").symlink_to(Path(flatbuffers.__file__).parent)
    out = tmp_path / "bare.zpl"
    code = (
        f"import sys; sys.path[:0] = [{str(packages)!r}, {str(REPOSITORY)!r}]\n"
        "from backend.kernels.__main__ import main\n"
        f"options = ['--shaders', {str(shaders)!r}, '--out', {str(out)!r}, '--cache', {str(tmp_path / 'c')!r}]\n"
        "sys.exit(main(['build', *options]))"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, cwd=tmp_path)
    assert out.read_bytes() == library

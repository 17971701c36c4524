"""Compilation: errors with the compiler's text, the cache, the library beside the program, exact arithmetic kept."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from zeropoint.errors import ShaderError
from zeropoint.kernels import compile as compiling
from zeropoint.kernels import spirv
from zeropoint.kernels.cache import CompiledVariant, ShaderCache, default_cache_dir
from zeropoint.kernels.compile import compile_variants
from zeropoint.kernels.glslang_library import load_library, preamble_text
from zeropoint.kernels.keys import VariantKey
from zeropoint.kernels.prelude import Prelude, prelude
from zeropoint.kernels.spirv import Decoration
from zeropoint.kernels.toolchain import TARGET, find_toolchain, run_tool

from .tiny import MANIFEST, SHADER, compile_tiny, replaced, tiny_job, write_tree

INCLUDE = (
    "layout(local_size_x",
    '#extension GL_GOOGLE_include_directive : require\n#include "part.glsl"\nlayout(local_size_x',
)


def build(shaders: Path, cache: Path, **choice: str) -> CompiledVariant:
    (result,) = compile_variants([tiny_job(shaders, **choice)], find_toolchain(), cache_dir=cache, workers=1)
    return result


def test_what_a_variant_holds(tmp_path: Path) -> None:
    result = compile_tiny(tmp_path, zp="i8:buffer", bias="f32:buffer")
    assert str(result.key) == "tiny/only[x=f32:buffer,zp=i8:buffer,bias=f32:buffer,y=f32:buffer]"
    assert (result.local_size, result.push_bytes, result.shared_bytes) == ((64, 1, 1), 8, 0)
    assert result.capabilities == (1, 4448)
    assert result.bindings == (0, 1, 2, 3)


def test_debug_names_are_stripped(tmp_path: Path) -> None:
    assert not spirv.parse(compile_tiny(tmp_path).spirv).names


def test_prelude(tmp_path: Path) -> None:
    job = tiny_job(write_tree(tmp_path), zp="i8:buffer")
    assert prelude(job.manifest, job.algorithm, job.key) == Prelude(
        macros=(
            ("X_BINDING", "0"),
            ("X_F32", "1"),
            ("X_BUFFER", "1"),
            ("X_TYPE", "float"),
            ("X_AT(i)", "x[i]"),
            ("ZP_BINDING", "1"),
            ("ZP_I8", "1"),
            ("ZP_BUFFER", "1"),
            ("ZP_TYPE", "int8_t"),
            ("ZP_AT(i)", "zp[i]"),
            ("BIAS_BINDING", "2"),
            ("BIAS_NONE", "1"),
            ("Y_BINDING", "3"),
            ("Y_F32", "1"),
            ("Y_BUFFER", "1"),
            ("Y_TYPE", "float"),
            ("LANES", "64"),
        ),
        extensions=("GL_EXT_shader_8bit_storage",),
    )


@pytest.mark.parametrize(
    ("dtype", "element"),
    [
        ("i8", "signed_byte_of(zp[(i) >> 2], i)"),
        ("u8", "byte_of(zp[(i) >> 2], i)"),
        ("f16", "half_of(zp[(i) >> 1], i)"),
        ("i32", "zp[i]"),
    ],
)
def test_elements_of_words(tmp_path: Path, dtype: str, element: str) -> None:
    """A device without small storage reads them out of words."""
    text = 'dtype = ["i8", "i32", "f16", "f32"], storage = ["buffer", "image"]'
    views = 'dtype = ["i8", "u8", "i32", "f16"], storage = ["buffer"], view = { i8 = "u32", u8 = "u32", f16 = "u32" }'
    job = tiny_job(write_tree(tmp_path, manifest=replaced(MANIFEST, (text, views))), zp=f"{dtype}:buffer")
    found = prelude(job.manifest, job.algorithm, job.key)
    assert dict(found.macros)["ZP_AT(i)"] == element
    assert found.extensions == ()


@pytest.mark.parametrize(
    ("dtype", "image", "image_format"),
    [
        ("i8", "iimage2D", "rgba8i"),
        ("i32", "iimage2D", "rgba32i"),
        ("f16", "image2D", "rgba16f"),
        ("f32", "image2D", "rgba32f"),
    ],
)
def test_prelude_of_an_image(tmp_path: Path, dtype: str, image: str, image_format: str) -> None:
    job = tiny_job(write_tree(tmp_path), zp=f"{dtype}:image")
    found = prelude(job.manifest, job.algorithm, job.key)
    assert [macro for macro in found.macros if macro[0].startswith("ZP_")] == [
        ("ZP_BINDING", "1"),
        (f"ZP_{dtype.upper()}", "1"),
        ("ZP_IMAGE", "1"),
        ("ZP_FORMAT", image_format),
        ("ZP_IMAGE_TYPE", image),
    ]
    assert found.extensions == ()


def test_a_shader_that_does_not_compile(tmp_path: Path) -> None:
    with pytest.raises(ShaderError) as error:
        compile_tiny(tmp_path, ("y[i] = value;", "y[i] = values;"))
    text = str(error.value)
    assert text.startswith("tiny.comp: tiny/only[x=f32:buffer,zp=f32:buffer,bias=none,y=f32:buffer]: exit 2\n")
    line = SHADER[: SHADER.index("y[i] = value;")].count("\n") + 1
    assert f"tiny.comp:{line}: 'values' : undeclared identifier" in text
    assert f"\ncommand: {find_toolchain().glslang} --quiet --target-env {TARGET} -S comp -I" in text
    assert "-DZP_TYPE=float" in text


def test_a_shader_that_does_not_validate(tmp_path: Path) -> None:
    spirv_intrinsic = "spirv_instruction(id = 200)\nfloat inverse(float a);\nvoid main() {\n"
    extension = ("#version 450\n", "#version 450\n#extension GL_EXT_spirv_intrinsics : require\n")
    with pytest.raises(ShaderError) as error:
        compile_tiny(tmp_path, extension, ("void main() {\n", spirv_intrinsic), ("x[i] *", "inverse(x[i]) *"))
    assert "exit 1\n" in str(error.value)
    assert "Expected int scalar or vector type as Result Type" in str(error.value)
    assert str(error.value).splitlines()[-1].startswith(f"command: {find_toolchain().spirv_opt} --target-env")


def test_what_the_optimizer_makes_is_validated(tmp_path: Path) -> None:
    job = tiny_job(write_tree(tmp_path / "shaders"))
    tools = replace(find_toolchain(), spirv_val="false")
    with pytest.raises(ShaderError, match=rf": exit 1\n\ncommand: false --target-env {TARGET} .*\.opt\.spv$"):
        compile_variants([job], tools, cache_dir=tmp_path / "cache")


def test_an_include_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ShaderError, match=r"Could not process include directive for header name: part\.glsl"):
        compile_tiny(tmp_path, INCLUDE)


def test_a_source_that_is_no_text(tmp_path: Path) -> None:
    shaders = write_tree(tmp_path / "shaders")
    job = tiny_job(shaders)
    (shaders / "tiny.comp").write_bytes(b"\xff\xfe")
    with pytest.raises(ShaderError, match=r"^tiny\.comp: 'utf-8' codec can't decode"):
        compile_variants([job], find_toolchain(), cache_dir=tmp_path / "cache")


def test_order_and_progress(tmp_path: Path) -> None:
    shaders = write_tree(tmp_path / "shaders")
    jobs = [tiny_job(shaders, zp=zp) for zp in ("f32:image", "i8:buffer", "i32:image")]
    seen: list[int] = []
    results = compile_variants(jobs, find_toolchain(), cache_dir=tmp_path / "cache", workers=2, progress=seen.append)
    assert [result.key for result in results] == [job.key for job in jobs]
    assert seen == [1, 2, 3]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the variants that were really compiled."""
    seen: list[str] = []
    real = compiling._compile

    def spy(job, *rest):  # type: ignore[no-untyped-def]
        seen.append(str(job.key))
        return real(job, *rest)

    monkeypatch.setattr(compiling, "_compile", spy)
    return seen


def test_a_second_build_compiles_nothing(tmp_path: Path, compilations: list[str]) -> None:
    shaders, cache = write_tree(tmp_path / "shaders"), tmp_path / "cache"
    first = build(shaders, cache)
    assert build(shaders, cache) == first
    assert len(compilations) == 1


@pytest.mark.parametrize("part", ["source", "include", "constant", "push", "io", "macro of another slot"])
def test_what_invalidates(tmp_path: Path, compilations: list[str], part: str) -> None:
    shaders, cache = write_tree(tmp_path / "shaders", shader=replaced(SHADER, INCLUDE)), tmp_path / "cache"
    (shaders / "lib" / "part.glsl").write_text("// one\n")
    build(shaders, cache)
    manifest, source = shaders / "tiny.toml", shaders / "tiny.comp"
    if part == "source":
        source.write_text(source.read_text() + "// more\n")
    elif part == "include":
        (shaders / "lib" / "part.glsl").write_text("// two\n")
    elif part == "constant":
        manifest.write_text(manifest.read_text().replace("LANES = 64", "LANES = 32"))
    elif part == "push":
        manifest.write_text(manifest.read_text().replace("{ n = ", "{ m = "))
    elif part == "io":
        manifest.write_text(manifest.read_text().replace('y = { io = "out"', 'y = { io = "in"'))
    choice = {"bias": "f32:buffer"} if part == "macro of another slot" else {}
    if part in ("push", "io"):
        with pytest.raises(ShaderError):
            build(shaders, cache, **choice)
    else:
        build(shaders, cache, **choice)
    assert len(compilations) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "no json", "old"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, compilations: list[str], damage: str) -> None:
    shaders, cache = write_tree(tmp_path / "shaders"), tmp_path / "cache"
    first = build(shaders, cache)
    (entry,) = cache.iterdir()
    data = entry.read_bytes()
    header = json.loads(data.split(b"\n", 1)[0])
    del header["bindings"]
    entry.write_bytes(
        {
            "empty": b"",
            "cut": data[:-4],
            "flipped": data[:-1] + bytes([data[-1] ^ 1]),
            "no json": b"{" + data,
            "old": json.dumps(header).encode() + b"\n" + data.split(b"\n", 1)[1],
        }[damage]
    )
    assert build(shaders, cache) == first
    assert len(compilations) == 2
    assert entry.read_bytes() == data


def test_a_failure_is_not_cached(tmp_path: Path) -> None:
    with pytest.raises(ShaderError):
        compile_tiny(tmp_path, ("x[i] *", ""))
    assert list((tmp_path / "cache").iterdir()) == []


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEROPOINT_SHADER_CACHE", raising=False)
    assert default_cache_dir(Path("/a/shaders")) == Path("/a/.cache/shaders")
    monkeypatch.setenv("ZEROPOINT_SHADER_CACHE", "/b")
    assert default_cache_dir(Path("/a/shaders")) == Path("/b")


def test_exact_arithmetic_survives(tmp_path: Path) -> None:
    """Two-sum under `precise`: every operation is there, each marked, after the optimizer."""
    body = (
        "y[i] = value;",
        "precise float total = value + eps; precise float back = total - value; precise float rest = eps - back;\n"
        "  precise float again = value - (total - back); y[i] = rest + again;",
    )
    module = spirv.parse(compile_tiny(tmp_path, body).spirv)
    adds = [item.operands[1] for item in module.instructions if item.opcode in (129, 131)]  # OpFAdd, OpFSub
    marked = [target for target in adds if module.decoration(target, Decoration.NO_CONTRACTION) is not None]
    assert len(adds) == 7
    assert len(marked) >= 5


def test_the_library_gives_the_same_bytes_as_the_program(tmp_path: Path) -> None:
    tools = find_toolchain()
    library = load_library(Path(tools.glslang).parent.parent / "lib")
    if library is None:
        pytest.skip(f"{tools.glslang} has no glslang 13 libraries beside it")
    shaders = write_tree(tmp_path / "shaders", shader=replaced(SHADER, INCLUDE))
    (shaders / "lib" / "part.glsl").write_text('#include "nested.glsl"\n')
    (shaders / "lib" / "nested.glsl").write_text("const int kNested = 3;\n")
    job = tiny_job(shaders, zp="i8:buffer")
    before = prelude(job.manifest, job.algorithm, job.key)
    fast = library.compile(job.algorithm.source, preamble_text(before.macros, before.extensions), shaders / "lib")
    out = tmp_path / "slow.spv"
    command = [tools.glslang, "--quiet", "--target-env", TARGET, "-S", "comp", f"-I{shaders / 'lib'}"]
    command += [f"-D{name}={value}" for name, value in before.macros]
    command += [f"-P#extension {name} : require" for name in before.extensions]
    assert run_tool([*command, "-o", str(out), str(job.algorithm.source)]).returncode == 0
    assert fast == out.read_bytes()


def test_the_library_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    library = load_library(Path(find_toolchain().glslang).parent.parent / "lib")
    if library is None:
        pytest.skip("no glslang 13 libraries beside glslang")
    for text in (
        "// a comment first\n#version 450\nvoid main() {}\n",
        "#version 450\nvoid main() { x }\n",
        "#version 450\n",
    ):
        source = tmp_path / "a.comp"
        source.write_text(text)
        assert library.compile(source, "", tmp_path) is None


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = compile_tiny(tmp_path / "fast")
    monkeypatch.setattr(compiling, "load_library", lambda folder: None)
    assert compile_tiny(tmp_path / "slow") == fast


def test_no_library_in_an_empty_folder(tmp_path: Path) -> None:
    assert load_library(tmp_path) is None
    for name in ("libglslang.so.13", "libSPIRV.so.13", "libglslang-default-resource-limits.so.13"):
        (tmp_path / name).write_bytes(b"no library")
    load_library.cache_clear()
    assert load_library(tmp_path) is None


def test_threads_write_one_entry(tmp_path: Path) -> None:
    """Two algorithms of one source are compiled at the same time."""
    cache, key = ShaderCache(tmp_path, "tools"), VariantKey("tiny", "only", ())
    variant = CompiledVariant(key, bytes(1 << 16), (0,), (1,), (8, 1, 1), 0, 0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.write("entry", variant), range(200)))
    assert cache.read("entry", key) == variant
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]

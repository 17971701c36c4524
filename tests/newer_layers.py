"""Validation layers that see every access outside a binding: those of Debian 13, which scripts/newer_layers.sh fetches.

They need a newer C library than Debian 12's; a process gets both by being started with the newer one's loader. As a
pytest plugin this ends the process without the destructors of the layers, which abort when a device is never destroyed.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / ".cache" / "drivers" / "layers" / "usr"
SERVES_ITSELF = (2, 38)  # the C library that the layers need: a system that has it has such layers, too
# GPU-assisted validation says what it turns on in the device. All other tests make the other checks.
ACCESSES = {
    "VK_KHRONOS_VALIDATION_GPUAV_ENABLE": "1",
    "VK_KHRONOS_VALIDATION_GPUAV_VALIDATE_RAY_QUERY": "0",
    "VK_KHRONOS_VALIDATION_VALIDATE_CORE": "0",
    "VK_KHRONOS_VALIDATION_MESSAGE_ID_FILTER": "WARNING-GPU-Assisted-Validation,VALIDATION-SETTINGS",
    "GALLIVM_PERF": "nopt",  # llvmpipe would spend minutes on what the checks make of a shader
}


def python(*first: str | Path) -> list[str]:
    """A Python that finds libraries in folders `first`, and then the newer C library."""
    if tuple(map(int, platform.libc_ver()[1].split("."))) >= SERVES_ITSELF:
        return ["env", f"LD_LIBRARY_PATH={':'.join(map(str, first))}", sys.executable]
    libraries = FOLDER / "lib" / f"{platform.machine()}-linux-gnu"
    assert libraries.exists(), f"no {libraries}; run scripts/newer_layers.sh"
    (loader,) = libraries.glob("ld-linux-*.so.*")
    return [str(loader), "--library-path", ":".join(map(str, (*first, libraries))), sys.executable]


def environment() -> dict[str, str]:
    """Of such a process."""
    own = {"VK_LAYER_PATH": str(FOLDER / "share" / "vulkan" / "explicit_layer.d")} if FOLDER.exists() else {}
    return {**os.environ, **own}


_codes: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    _codes.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_codes[-1])

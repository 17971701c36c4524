"""What the player says where Vulkan is missing or fails; a loader of the test's own stands for the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# vkEnumerateInstanceVersion answers 1.3, vkCreateInstance what RESULT says.
LOADER = """
#include <stdlib.h>
#include <string.h>
static int version(unsigned* value) { *value = (1u << 22) | (3u << 12); return 0; }
static int create(const void* info, const void* allocator, void** instance) { return atoi(getenv("RESULT")); }
void* vkGetInstanceProcAddr(void* instance, const char* name) {
  if (strcmp(name, "vkEnumerateInstanceVersion") == 0) return version;
  return strcmp(name, "vkCreateInstance") == 0 ? create : 0;
}
"""


def devices(loader: Path, result: int = 0) -> str:
    """The one line of `zeropoint devices` with another libvulkan.so.1."""
    done = subprocess.run(
        [Path(sys.executable).with_name("zeropoint"), "devices"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": str(loader), "RESULT": str(result), "ZEROPOINT_VALIDATION": "0"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line.removeprefix("Error: ")


@pytest.fixture(autouse=True)
def quiet_layers() -> None:
    """The device is another process's: this one has no messages to look at."""


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    (folder / "loader.c").write_text(LOADER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", folder / "libvulkan.so.1", folder / "loader.c"], check=True)
    return folder


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (-1, "VK_ERROR_OUT_OF_HOST_MEMORY"),
        (-3, "VK_ERROR_INITIALIZATION_FAILED"),
        (-7, "VK_ERROR_EXTENSION_NOT_PRESENT"),
        (-11, "VK_ERROR_FORMAT_NOT_SUPPORTED"),
        (-12, "VK_ERROR_FRAGMENTED_POOL"),
        (-13, "VK_ERROR_UNKNOWN"),
        (-1000161000, "VK_ERROR_FRAGMENTATION"),
        (-1000011001, "VK_ERROR_VALIDATION_FAILED_EXT"),
        (2, "VK_TIMEOUT"),
    ],
)
def test_results_have_names(loader: Path, result: int, name: str) -> None:
    assert devices(loader, result) == f"vkCreateInstance: {name}"


def test_no_driver(loader: Path) -> None:
    text = "no Vulkan driver; install a driver: the Debian package mesa-vulkan-drivers "
    assert devices(loader, -9).startswith(text)  # VK_ERROR_INCOMPATIBLE_DRIVER


def test_no_loader(tmp_path: Path) -> None:
    for name in ("libvulkan.so.1", "libvulkan.so"):
        (tmp_path / name).write_bytes(b"\x7fELF")
    wanted = "Vulkan loader: libvulkan.so.1 does not open; install the Debian package libvulkan1"
    assert devices(tmp_path) == wanted

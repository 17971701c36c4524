"""Golden texts, Vulkan's validation layers for every test that opens a device, and equal random numbers."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch._export.utils
import torch.export.decomp_utils
from torch._ops import OperatorBase

Key, Kernel = object, Callable[..., object]
GOLDEN = Path(__file__).parent / "golden" / "text"
os.environ.setdefault("ZEROPOINT_VALIDATION", "1")
# Of their own: what `zeropoint tune` has kept for this device is not what tests expect.
os.environ.setdefault("ZEROPOINT_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "pipelines"))
collect_ignore = [] if "ZEROPOINT_ARM64" in os.environ else ["arm64"]  # scripts/test_arm64.sh builds what it tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts instead of comparing them")


def pytest_configure() -> None:
    """Workers share the cores: torch's threads wait for each other by spinning, and two workers' would spin on each."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


def pytest_collection_finish() -> None:
    """What was imported stays: millions of objects that every full collection would visit."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _operators_once() -> Iterator[None]:
    """More than half of the time of a small lowering.

    At each decomposition torch.export looks for the composite operators of all namespaces, has the dispatcher tell
    Python of them, once for each namespace, and gives each of them a dozen kernels. Here it looks when others are
    registered than the last times, which is all that it is good for, and a kernel is given without the making of two
    types for annotations that nobody reads (torch 2.13).
    """
    utils, answers, known = torch._export.utils, dict[frozenset[str], set[OperatorBase]](), set[str]()
    look_up, collect, give = utils._materialize_cpp_cia_ops, utils._collect_all_valid_cia_ops, OperatorBase.py_impl

    def registered() -> frozenset[str]:
        return frozenset(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))

    def look_up_others() -> None:
        found = registered()
        if found != known:
            look_up()
            known.clear()
            known.update(found)

    def collect_others() -> set[OperatorBase]:
        found = registered()
        if found not in answers:
            answers[found] = collect()
        return answers[found]

    def give_quickly(self: OperatorBase, key: Key) -> Callable[[Kernel], Kernel]:
        if not isinstance(key, torch._C.DispatchKey) or key == torch._C.DispatchKey.Python or key in self.py_kernels:
            return give(self, key)

        def give_kernel(kernel: Kernel) -> Kernel:
            self.py_kernels[key] = kernel
            self._dispatch_cache.clear()
            return kernel

        return give_kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_materialize_cpp_cia_ops", look_up_others)
        for module in (torch.export.exported_program, torch.export.decomp_utils):
            patch.setattr(module, "_collect_all_valid_cia_ops", collect_others)
        patch.setattr(OperatorBase, "py_impl", give_quickly)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same numbers whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(name, text): compares text with tests/golden/text/<name>.txt."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing; run pytest with --update-golden and review the diff"
        assert text == path.read_text(), f"{path} differs; run pytest with --update-golden and review the diff"

    return compare

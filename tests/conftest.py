"""Golden texts, Vulkan's validation layers for every test that opens a device, and equal random numbers."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch._export.utils

GOLDEN = Path(__file__).parent / "golden" / "text"
os.environ.setdefault("ZEROPOINT_VALIDATION", "1")
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
    """Half of the time of a small lowering.

    torch.export looks up every composite operator of the dispatcher, once for each namespace and decomposition, so that
    Python knows them. Here it does so when there are other ones than the last time, which is all that it is good for.
    """
    look_up, known = torch._export.utils._materialize_cpp_cia_ops, set[str]()

    def look_up_others() -> None:
        found = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        if set(found) != known:
            look_up()
            known.clear()
            known.update(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._export.utils, "_materialize_cpp_cia_ops", look_up_others)
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

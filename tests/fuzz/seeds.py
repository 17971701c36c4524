"""What libFuzzer begins with: `python -m tests.fuzz.seeds FOLDER` writes program/, library/ and sample.zpp.

Programs: the golden ones of every version, without the checksum that refuses whatever else is damaged, and that of
corrupt.py, which has everything. Libraries: of small kernels, by each of which sample.zpp has a call.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz import corrupt
from zeropoint.export.inspection import inspect
from zeropoint.kernels.build import build_library
from zeropoint.kernels.cache import default_cache_dir
from zeropoint.program.builder import ProgramBuilder
from zeropoint.program.io import SEAL, write_program

REPO = Path(__file__).parents[2]
SHADERS = REPO / "shaders"
KERNELS = ("arange", "check_index", "choose_qparams_per_row")
SEAL_BYTES = 36  # at the end of a blob that has one


def programs() -> dict[str, bytes]:
    found = {"sample": corrupt.sample()[0]}
    for path in sorted((REPO / "tests" / "golden").glob("v*/*.pte")):
        for index, delegate in enumerate(inspect(path).delegates):
            sealed = delegate.blob[-SEAL_BYTES:].startswith(SEAL)
            found[f"{path.parent.name}-{path.stem}-{index}"] = delegate.blob[: -SEAL_BYTES if sealed else None]
    return found


def library(*kernels: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        others = {path.name for path in SHADERS.glob("*.toml") if path.stem not in kernels}
        shaders = shutil.copytree(SHADERS, Path(folder) / "shaders", ignore=lambda _, names: others.intersection(names))
        return build_library(shaders, cache_dir=default_cache_dir(SHADERS))


def sample() -> bytes:
    """A call of each kernel of the libraries, over rows whose number is an input's."""
    b = ProgramBuilder()
    rows = b.symbol("m", 1, 64)
    x, ids, places = b.tensor("x", "f32", [rows, 64]), b.tensor("ids", "i32", [rows]), b.tensor("places", "i32", [rows])
    b.input(x)
    b.input(ids)
    b.call("arange", {"y": places}, {"start": 0, "step": 1})
    flat = {"size0": 1, "size1": 1, "size2": 1, "size3": rows, "x_offset": 0}
    flat |= {f"x_stride{axis}": int(axis == 3) for axis in range(4)}
    bounds = {"low": 0, "high": 63, "wrap": 0, "outside": -1, "call": 0}
    checked = b.tensor("checked", "i32", [rows])
    b.call("check_index", {"x": ids, "y": checked, "faults": b.faults()}, {**flat, **bounds})
    scale, zp = (b.tensor(name, dtype, [rows], storage="image") for name, dtype in (("scale", "f32"), ("zp", "i8")))
    attrs = {"mapping": 0, "qmin": -128, "qmax": 127, "eps": 1e-7}
    b.call("choose_qparams_per_row", {"x": x, "scale": scale, "zp": zp}, attrs)
    for output in (places, checked):
        b.output(output)
    return write_program(b.build()[0])


def main(folder: Path) -> None:
    libraries = {name: library(name) for name in KERNELS} | {"all": library(*KERNELS)}
    for kind, blobs in {"program": programs(), "library": libraries}.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, blob in blobs.items():
            (folder / kind / name).write_bytes(blob)
    (folder / "sample.zpp").write_bytes(sample())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Runs flatc on the schemas: `python -m backend.serialization.generate [--flatc FLATC] [--out DIR] [--cpp DIR]`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..errors import ZeropointError

SCHEMAS = ("common", "library", "program")
HERE = Path(__file__).parent
# The system's, whose headers the C++ is compiled with: a virtual environment has the one of ExecuTorch's wheel.
FLATC = shutil.which("flatc", path="/usr/bin:/usr/local/bin") or "flatc"


def generate(*, flatc: str = FLATC, out: Path | None = None, cpp: Path | None = None) -> tuple[Path, ...]:
    """Writes the Python modules (into `out`, default `_generated` beside the schemas) and, with `cpp`, the C++ headers.

    Returns the files written. Raises ZeropointError when flatc is missing or refuses a schema.
    """
    target = HERE / "_generated" if out is None else out
    schemas = [str(HERE / f"{name}.fbs") for name in SCHEMAS]
    target.mkdir(parents=True, exist_ok=True)
    _run([flatc, "--python", "--gen-object-api", "--gen-onefile", "-o", str(target), *schemas])
    (target / "__init__.py").write_text("")
    written = [target / "__init__.py", *(target / f"{name}_generated.py" for name in SCHEMAS)]
    if cpp is not None:
        cpp.mkdir(parents=True, exist_ok=True)
        _run([flatc, "--cpp", "--scoped-enums", "-o", str(cpp), *schemas])
        written += [cpp / f"{name}_generated.h" for name in SCHEMAS]
    return tuple(written)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        fix = "install the Debian package flatbuffers-compiler or pass --flatc"
        raise ZeropointError(f"flatc: no such program (got {command[0]!r}); {fix}") from error
    if done.returncode != 0:
        raise ZeropointError(
            f"flatc: exit {done.returncode} of {' '.join(command)}: {done.stdout}{done.stderr}".strip()
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m backend.serialization.generate", description=__doc__)
    parser.add_argument("--flatc", default=FLATC)
    parser.add_argument("--out", type=Path, default=None, help="folder of the Python modules")
    parser.add_argument("--cpp", type=Path, default=None, help="also write C++ headers into this folder")
    arguments = parser.parse_args()
    for path in generate(flatc=arguments.flatc, out=arguments.out, cpp=arguments.cpp):
        print(path)


if __name__ == "__main__":
    main()

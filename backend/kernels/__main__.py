"""`python -m backend.kernels build --shaders shaders --out kernels.zpl`, `... list kernels.zpl`, `... signatures`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ZeropointError
from ..files import replace_file
from .build import build_library, list_kernels
from .generate import TARGET, write_signatures


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "list":
            print(list_kernels(options.library.read_bytes()))
        elif options.command == "signatures":
            print(write_signatures(options.shaders, options.out))
        else:
            _build(options)
    except (ZeropointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; no file is half-written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backend.kernels")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="compile every shader variant into one library file")
    build.add_argument("--shaders", type=Path, default=Path("shaders"))
    build.add_argument("--out", type=Path, required=True)
    build.add_argument("--cache", type=Path, default=None, help="default: $ZEROPOINT_SHADER_CACHE or .cache/shaders")
    build.add_argument("--jobs", type=int, default=None, help="default: the number of cores")
    signatures = commands.add_parser("signatures", help="write what export knows of the kernels as a Python module")
    signatures.add_argument("--shaders", type=Path, default=Path("shaders"))
    signatures.add_argument("--out", type=Path, default=TARGET, help="folder of the module")
    listing = commands.add_parser("list", help="print every kernel, algorithm and variant of a library")
    listing.add_argument("library", type=Path)
    return parser


def _build(options: argparse.Namespace) -> None:
    start = time.monotonic()
    data = build_library(
        options.shaders, cache_dir=options.cache, workers=options.jobs, progress=_progress("shader variants")
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(options.out, lambda file: file.write(data))
    print(f"{options.out}: {len(data)} bytes in {time.monotonic() - start:.1f} s")


def _progress(what: str) -> Callable[[int, int], None]:
    """A tqdm bar on a terminal where tqdm is installed, otherwise a line for every tenth."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            bar = tqdm(desc=what, unit="")

            def update(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if done == total:
                    bar.close()

            return update

    def line(done: int, total: int) -> None:
        if done == total or done * 10 // total != (done - 1) * 10 // total:
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    return line


if __name__ == "__main__":
    sys.exit(main())

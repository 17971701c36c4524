"""One call of a .pte in executorch.runtime, with arrays from and to .npy files."""

from __future__ import annotations

import contextlib
import io
import logging
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from executorch.runtime import Program, Runtime

from .errors import OptionError, RuntimeFailure
from .runtime import library
from .runtime.register import register

T = TypeVar("T")
_LOGGER = logging.getLogger("zeropoint.executorch")


def open_program(path: Path) -> Program:
    """A .pte in executorch.runtime, which knows our backend afterwards. Keep it as long as its methods.

    Raises OptionError when path is no .pte, RuntimeFailure when it does not load.
    """
    if path.suffix != ".pte":
        raise OptionError(f"{path}: suffix {path.suffix!r}; need .pte")
    if not path.is_file():
        raise OptionError(f"{path}: no such file; make it with `zeropoint export` or zeropoint.ZeropointPartitioner")
    with path.open("rb") as file:
        identifier = file.read(8)[4:]
    if identifier[:2] != b"ET":
        raise OptionError(f"{path}: identifier {identifier!r}; need an ExecuTorch .pte")
    register()
    return reported(str(path), lambda: Runtime.get().load_program(path))


def reported(where: str, call: Callable[[], T]) -> T:
    """Calls ExecuTorch. Its errors are numbers: RuntimeFailure gives the player's reason, or ExecuTorch's first note.

    What ExecuTorch would write to stderr goes to the logger `zeropoint.executorch`.
    """
    notes = io.StringIO()
    try:
        with contextlib.redirect_stderr(notes):
            return call()
    except RuntimeError as error:
        lines = [line.partition("] ")[2] or line for line in notes.getvalue().splitlines()]
        ours = library.last_error()
        reason = ours if ours in lines else next(iter(lines), str(error))
        raise RuntimeFailure(f"{where}: {reason}") from error
    finally:
        for line in notes.getvalue().splitlines():
            _LOGGER.info(line)


def run_program(path: Path, inputs: Sequence[Path], output: Path | None, *, method: str = "forward") -> Iterator[str]:
    """Runs a method once and yields a line for each output, which also goes to output/output_<i>.npy.

    Raises OptionError on a file that cannot be read or a method that is not there.
    """
    program = open_program(path)
    if method not in program.method_names:
        raise OptionError(f"{path}: method {method!r}; offered {', '.join(sorted(program.method_names))}")
    arguments = [torch.from_numpy(read_array(item)) for item in inputs]
    loaded = reported(f"{path}: method {method}", lambda: program.load_method(method))
    results = reported(f"{path}: method {method}", lambda: loaded.execute(arguments))
    for index, result in enumerate(results):
        if not isinstance(result, torch.Tensor):
            yield f"output {index}: {result!r}"
            continue
        yield f"output {index}: {str(result.dtype).removeprefix('torch.')} {list(result.shape)}"
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            np.save(output / f"output_{index}.npy", result.numpy())


def peak_bytes() -> int:
    """The most host memory that this process has held, software Vulkan's included."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file. Raises OptionError when there is none."""
    if not path.is_file():
        raise OptionError(f"{path}: no such file; need a .npy array")
    try:
        array: np.ndarray = np.load(path)
    except ValueError as error:
        raise OptionError(f"{path}: {error}; need a .npy array") from error
    return array

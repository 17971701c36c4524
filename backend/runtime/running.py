"""One call of a .pte in executorch.runtime, with arrays from and to .npy files."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from executorch.runtime import Program

from ..errors import OptionError
from ..files import replace_file
from .pte import read_pte, reported
from .register import register


def open_program(path: Path) -> Program:
    """A .pte in executorch.runtime, which knows our backend afterwards. Keep it as long as its methods.

    Raises OptionError when there is no such .pte, ProgramError when it is none or damaged.
    """
    if path.suffix != ".pte":
        raise OptionError(f"{path}: suffix {path.suffix!r}; need .pte")
    if not path.is_file():
        raise OptionError(f"{path}: no such file; make it with `zeropoint export` or zeropoint.ZeropointPartitioner")
    register()
    return read_pte(path).loaded


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
            _write_array(output / f"output_{index}.npy", result.numpy())


def _write_array(path: Path, array: np.ndarray) -> None:
    replace_file(path, lambda file: np.save(file, array))


def peak_bytes() -> int:
    """The most host memory that this process has held, software Vulkan's included."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file, of a dtype that PyTorch has. Raises OptionError when there is none."""
    if not path.is_file():
        raise OptionError(f"{path}: no such file; need a .npy array")
    try:
        with path.open("rb") as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        torch.from_numpy(array)
    except (ValueError, TypeError, MemoryError) as error:  # TypeError: no such dtype in PyTorch
        raise OptionError(f"{path}: {str(error).splitlines()[0]}; need a .npy array") from error
    return array

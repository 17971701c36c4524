"""Exports a module through our partitioner and runs it: as a .pte in ExecuTorch's runtime, or its Program alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn

import zeropoint
from zeropoint.export import matching
from zeropoint.export.preprocess import lower_program
from zeropoint.runtime.player import LoadedProgram


def export(
    module: nn.Module, example: torch.Tensor, *, max_sizes: Mapping[int, int] | None = None
) -> torch.export.ExportedProgram:
    """torch.export of a one-input module. max_sizes: dynamic dimension -> its maximum."""
    shapes = {axis: torch.export.Dim(f"d{axis}", min=1, max=size) for axis, size in (max_sizes or {}).items()}
    with torch.no_grad():
        return torch.export.export(module.eval(), (example,), dynamic_shapes=(shapes or None,))


def lower(
    program: torch.export.ExportedProgram, options: zeropoint.CompileOptions | None = None
) -> tuple[bytes, zeropoint.ZeropointPartitioner]:
    """The .pte, and the partitioner that made it."""
    partitioner = zeropoint.ZeropointPartitioner(options)
    edge = to_edge_transform_and_lower(program, partitioner=[partitioner])
    return bytes(edge.to_executorch().buffer), partitioner


@contextmanager
def everything_decomposed() -> Iterator[None]:
    """Lowers as a graph is lowered that has, of each operator that is kept whole, also one that no rule takes."""
    with mock.patch.object(matching, "operators_kept_whole", return_value=[]):
        yield


class Method:
    """A loaded `forward`. Keeps the program alive: dropping it would free the bytes under the method."""

    def __init__(self, pte: bytes) -> None:
        zeropoint.register()
        self._pte = pte
        self._program = Runtime.get().load_program(pte)
        self._method = self._program.load_method("forward")

    def __call__(self, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        with torch.no_grad():
            return tuple(tensor.clone() for tensor in self._method.execute(list(inputs)))


class Direct:
    """A module lowered by the rules and run by the player, without ExecuTorch's pipeline, which takes far longer."""

    def __init__(self, program: torch.export.ExportedProgram, options: zeropoint.CompileOptions | None = None) -> None:
        self.program, constants = lower_program(program, options or zeropoint.CompileOptions())
        self._loaded = LoadedProgram(self.program, constants)

    def __call__(self, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        return tuple(torch.from_numpy(array) for array in self._loaded.execute([item.numpy() for item in inputs]))

    def kernels(self) -> list[str]:
        """Of the calls of the last run."""
        return [pick.kernel for pick in self._loaded.picks()]


def relative_rms(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    """||actual - wanted|| / ||wanted||, in f64."""
    assert actual.shape == wanted.shape, f"{tuple(actual.shape)}; need {tuple(wanted.shape)}"
    wanted = wanted.double()
    return float((actual.double() - wanted).norm() / wanted.norm())


def compare(run: Method | Direct, model: nn.Module, inputs: Sequence[torch.Tensor], *, tolerance: float) -> None:
    """Every output of every input within the relative RMS error of eager PyTorch."""
    for x in inputs:
        with torch.no_grad():
            eager = model(x)
        wanted = eager if isinstance(eager, tuple) else (eager,)
        for index, (actual, expected) in enumerate(zip(run(x), wanted, strict=True)):
            error = relative_rms(actual, expected)
            assert error <= tolerance, f"output {index} of {tuple(x.shape)}: {error:.3e} > {tolerance}"


def rows_of(k: int, n_rows: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Rows of differing offset and size, so that zero points take many values."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, k, generator=generator)
    x = x * torch.rand(n_rows, 1, generator=generator).exp() + torch.randn(n_rows, 1, generator=generator)
    return x.to(dtype)

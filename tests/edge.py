"""The edge program that a partitioner is shown by the documented call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import final

import torch
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
from executorch.exir.backend.partitioner import Partitioner, PartitionResult
from torch.export import ExportedProgram
from torch.fx import Node

from zeropoint import CompileOptions, ZeropointPartitioner


@final
class _Nothing(Partitioner):
    """Keeps whole what ours keeps, and delegates nothing."""

    def __init__(self, options: CompileOptions) -> None:
        super().__init__()
        self._ours = ZeropointPartitioner(options)

    def ops_to_not_decompose(
        self, ep: ExportedProgram
    ) -> tuple[list[torch._ops.OpOverload], Callable[[Node], bool] | None]:
        return self._ours.ops_to_not_decompose(ep)

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        return PartitionResult(tagged_exported_program=exported_program, partition_tags={})


def edge_program(exported: ExportedProgram, options: CompileOptions | None = None) -> ExportedProgram:
    """What torch.export returned, in ExecuTorch's edge dialect, with the operators whole that our rules take whole."""
    with warnings.catch_warnings(action="ignore"):
        manager = to_edge_transform_and_lower(
            exported,
            partitioner=[_Nothing(options or CompileOptions())],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
    program: ExportedProgram = manager.exported_program()
    return program

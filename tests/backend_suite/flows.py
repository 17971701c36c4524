"""The lowering flows under which ExecuTorch's backend test suite runs our partitioner."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from executorch.backends.test.harness import Tester
from executorch.backends.test.harness.stages import Stage, StageType, ToEdgeTransformAndLower
from executorch.backends.test.suite.flow import TestFlow

import zeropoint

BACKEND = "zeropoint"
TOLERANCE = 1e-5  # absolute, and relative; the suite's own is 0.1 plus 4 %
GROUP_SIZE = 32


class Quantize8da4w(Stage):
    """torchao's 8da4w: in groups where they divide a linear's inputs, otherwise per channel; not of a single input."""

    def __init__(self) -> None:
        self._model = torch.nn.Module()

    def stage_type(self) -> StageType:
        return StageType.QUANTIZE

    def run(self, artifact: torch.nn.Module, inputs: tuple[torch.Tensor, ...] | None = None) -> None:
        self._model = copy.deepcopy(artifact)
        for module in self._model.modules():
            if isinstance(module, torch.nn.Linear) and module.in_features > 1:  # torchao has no groups of one
                zeropoint.quantize(module, group_size=None if module.in_features % GROUP_SIZE else GROUP_SIZE)

    @property
    def artifact(self) -> torch.nn.Module:
        return self._model

    @property
    def graph_module(self) -> torch.nn.Module:
        return self._model


class ZeropointTester(Tester):
    """Lowers with ZeropointPartitioner, and compares with the exported program within TOLERANCE."""

    def __init__(self, module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...], **options: Any) -> None:
        stages = Tester.default_stage_classes() | {
            StageType.QUANTIZE: Quantize8da4w,
            StageType.TO_EDGE_TRANSFORM_AND_LOWER: functools.partial(
                ToEdgeTransformAndLower, zeropoint.ZeropointPartitioner
            ),
        }
        super().__init__(module, example_inputs, stage_classes=stages, **options)

    def run_method_and_compare_outputs(self, *args: Any, **options: Any) -> Tester:
        return super().run_method_and_compare_outputs(*args, **{**options, "atol": TOLERANCE, "rtol": TOLERANCE})


def make_flows() -> dict[str, TestFlow]:
    """The plain flow, and the one that quantizes first; by name."""
    flows = (
        TestFlow("zeropoint", backend=BACKEND, tester_factory=ZeropointTester),
        TestFlow("zeropoint_8da4w", backend=BACKEND, tester_factory=ZeropointTester, quantize=True),
    )
    return {flow.name: flow for flow in flows}

"""States that the methods of one .pte cannot share: errors at export. What they share runs in tests/player."""

from __future__ import annotations

import pytest
import torch
from executorch.exir.pass_base import ExportPass

import zeropoint
from tests.player.test_shared_states import Log, Reader, made
from zeropoint import Unsupported


def test_named_buffers_must_agree() -> None:
    options = zeropoint.CompileOptions(shared_states="log")
    text = (
        r"^state log: torch.float32 \[3, 8\] in method two, torch.float32 \[4, 8\] in method one; a shared state has "
    )
    with pytest.raises(Unsupported, match=text):
        made(options, one=Log(), two=Log(rows=3))
    with pytest.raises(
        Unsupported, match=r"^state log: methods one and two keep it in different dtypes, shapes or first "
    ):
        made(options, one=Log(first=1), two=Log(first=2))
    with pytest.raises(zeropoint.OptionError, match=r"shared_states: 'lag': no method has it; they have log, weight$"):
        made(zeropoint.CompileOptions(shared_states="lag"), one=Log(), two=Log())


@pytest.mark.parametrize("order", [("write", "read"), ("read", "write")])
def test_a_state_that_another_method_reads_on_the_cpu_is_refused(order: tuple[str, str]) -> None:
    log = Log()
    methods: dict[str, torch.nn.Module] = {"write": log, "read": Reader(log, last=True)}
    text = (
        r"^state (inner\.)?log: method write keeps it on the device, but method read reads it on the CPU: node "
        r"aten_fmod_scalar \(aten\.fmod\.Scalar\): no rule"
    )
    with pytest.raises(Unsupported, match=text):
        made(**{name: methods[name] for name in order})


def test_a_state_that_another_method_writes_on_the_cpu_is_refused() -> None:
    class Scan(Log):
        def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            self.log.copy_(torch.fmod(self.log, 2.0**20))
            return x + self.log

    log, scan = Log(), Scan()
    scan.log = log.log
    text = r"^state log: method one keeps it on the device, but method scan writes it on the CPU: node aten_fmod"
    with pytest.raises(Unsupported, match=text):
        made(scan=scan, one=log)


def test_a_copy_of_one_of_several_buffers_is_refused() -> None:
    log, other = Log(), Log()
    methods = {"one": log, "two": log, "three": other}
    with pytest.raises(
        Unsupported, match=r"^state log: method three was copied on its way here, and .* must name every"
    ):
        made(passes={"one": [ExportPass()], "two": [ExportPass()]}, **methods)
    made(passes={"one": [ExportPass()], "two": [ExportPass()], "three": []}, **methods)


def test_views_of_one_buffer_are_refused() -> None:
    log, part = Log(), Log(rows=2)
    part.log = log.log[:2]
    with pytest.raises(
        Unsupported, match=r"^states that overlap in memory \(one: log, two: log\); share whole buffers"
    ):
        made(one=log, two=part)

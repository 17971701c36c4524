"""Verification without a device: what references give stands for what a device did, with one fault planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.op.chain import Chain, build, random_weights
from tests.unit.test_interpreter import add_attrs, copy_attrs
from zeropoint import OptionError, ProgramBuilder, ZeropointError
from zeropoint.kernels.manifest import Io
from zeropoint.kernels.manifest_reader import load_manifests
from zeropoint.program import Program
from zeropoint.references import find_tolerance
from zeropoint.runtime.player import Pick
from zeropoint.verification.interpreter import run_reference
from zeropoint.verification.recomputation import DeviceRun, SlotCheck, first_states, recompute
from zeropoint.verification.report import OutputCheck, Run, Verification
from zeropoint.verification.tolerances import error_bound, excess, output_tolerance

MANIFESTS = load_manifests(Path(__file__).parents[2] / "shaders")
SHADERS = ("elementwise_binary.comp",) * 3
OUTPUTS = {item.name: frozenset(s.name for s in item.slots if s.io is Io.OUT) for item in MANIFESTS}
Fault = Callable[[dict[str, torch.Tensor]], None]
Built = tuple[Program, dict[str, bytes]]


def device_run(built: Built, inputs: list[torch.Tensor | int], fault: Fault | None = None) -> DeviceRun:
    """A run whose tensors are what the references give, rounded as a device stores them, and then the fault's."""
    program, constants = built
    before = first_states(program, constants)
    found = run_reference(program, constants, inputs, {name: value.clone() for name, value in before.items()})
    names = {item.name: found.tensors[index] for index, item in enumerate(program.tensors)}
    if fault is not None:
        fault(names)
    ran = tuple(range(len(program.calls)))
    return DeviceRun(program, constants, found.symbols, ran, before, lambda index: found.tensors[index])


def wrong(built: Built, inputs: list[torch.Tensor | int], fault: Fault | None = None) -> list[tuple[int, str]]:
    """Call and slot of everything out of tolerance."""
    return [(c.call, c.slot) for c in recompute(device_run(built, inputs, fault), OUTPUTS) if not c.is_right]


def added(name: str, index: int, change: float) -> Fault:
    def fault(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[index] += change

    return fault


def chain() -> tuple[Built, list[torch.Tensor | int]]:
    """x -> x + x -> y + y -> z + z."""
    b = ProgramBuilder()
    x, y, z, w = (b.tensor(name, "f32", [5]) for name in "xyzw")
    b.input(x)
    for source, target in ((x, y), (y, z), (z, w)):
        b.call("elementwise_binary", {"a": source, "b": source, "y": target}, add_attrs(5))
    b.output(w)
    return b.build(reuse_memory=False), [torch.arange(1.0, 6.0)]


def test_every_kernel_has_a_tolerance() -> None:
    for item in MANIFESTS:
        assert callable(find_tolerance(item.name)), item.name
    with pytest.raises(ZeropointError, match=r"^references: heads has no tolerance; add it to backend/references/"):
        find_tolerance("heads")


def test_a_healthy_run_is_right() -> None:
    assert wrong(*chain()) == []


@pytest.mark.parametrize(("name", "call"), [("y", 0), ("z", 1), ("w", 2)])
def test_only_the_call_with_the_fault_is_wrong(name: str, call: int) -> None:
    """The calls after it are compared on what the device really gave them."""
    built, inputs = chain()

    def fault(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][3] += 0.5
        for source, target in ("yz", "zw")[call:]:
            tensors[target][3] = 2 * tensors[source][3]

    assert wrong(built, inputs, fault) == [(call, "y")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_wrong(value: float) -> None:
    built, inputs = chain()
    assert (2, "y") in wrong(built, inputs, added("w", 0, value))


def test_rounding_is_no_fault() -> None:
    built, inputs = chain()
    assert wrong(built, inputs, added("w", 4, 2.0**-20)) == []
    assert wrong(built, inputs, added("w", 4, 2.0**-15)) == [(2, "y")]


def cat() -> tuple[Built, list[torch.Tensor | int]]:
    """Two calls write the halves of one tensor, which a third one reads."""
    b = ProgramBuilder()
    first, second = b.tensor("first", "f32", [3]), b.tensor("second", "f32", [3])
    both, y = b.tensor("both", "f32", [6]), b.tensor("y", "f32", [6])
    b.input(first)
    b.input(second)
    b.call("strided_copy", {"x": first, "y": both}, copy_attrs(3))
    b.call("strided_copy", {"x": second, "y": both}, copy_attrs(3, y=3))
    b.call("elementwise_binary", {"a": both, "b": both, "y": y}, add_attrs(6))
    b.output(y)
    return b.build(reuse_memory=False), [torch.arange(3.0), torch.arange(3.0, 6.0)]


@pytest.mark.parametrize(("element", "call"), [(1, 0), (4, 1)])
def test_the_writer_of_the_piece_is_blamed(element: int, call: int) -> None:
    built, inputs = cat()

    def fault(tensors: dict[str, torch.Tensor]) -> None:
        tensors["both"][element] += 1
        tensors["y"][element] += 2

    assert wrong(built, inputs) == []
    assert wrong(built, inputs, fault) == [(call, "y")]


def test_the_last_writer_of_an_element_is_blamed() -> None:
    """The second copy overwrites an element of the first."""
    b = ProgramBuilder()
    x, y = b.tensor("x", "f32", [4]), b.tensor("y", "f32", [4])
    b.input(x)
    b.call("strided_copy", {"x": x, "y": y}, copy_attrs(4))
    b.call("strided_copy", {"x": x, "y": y}, copy_attrs(2, x=2, y=1))
    b.output(y)
    built = b.build(reuse_memory=False)
    inputs: list[torch.Tensor | int] = [torch.arange(4.0)]
    assert wrong(built, inputs) == []
    assert [wrong(built, inputs, added("y", i, 1.0)) for i in range(4)] == [
        [(0, "y")], [(1, "y")], [(1, "y")], [(0, "y")]
    ]  # fmt: skip


def counter(*, read_first: bool) -> tuple[Built, list[torch.Tensor | int]]:
    """A state of which a call writes two elements, and which another call reads before or after that."""
    b = ProgramBuilder()
    state = b.state("state", "f32", [4], data=np.array([10, 20, 30, 40], np.float32))
    x, y = b.tensor("x", "f32", [2]), b.tensor("y", "f32", [4])
    b.input(x)
    read = ("elementwise_binary", {"a": state, "b": state, "y": y}, add_attrs(4))
    write = ("strided_copy", {"x": x, "y": state}, copy_attrs(2, y=1))
    for call in (read, write) if read_first else (write, read):
        b.call(*call)
    b.output(y)
    return b.build(reuse_memory=False), [torch.tensor([1.0, 2.0])]


@pytest.mark.parametrize("read_first", [True, False])
def test_a_state_is_read_as_it_was_at_the_call(read_first: bool) -> None:
    built, inputs = counter(read_first=read_first)
    assert wrong(built, inputs) == []
    reader, writer = (0, 1) if read_first else (1, 0)
    assert wrong(built, inputs, added("y", 1, 1.0)) == [(reader, "y")]

    def fault(tensors: dict[str, torch.Tensor]) -> None:
        tensors["state"][1] += 1
        if not read_first:
            tensors["y"][1] += 2

    assert wrong(built, inputs, fault) == [(writer, "y")]


def test_what_a_call_does_not_name_must_stay() -> None:
    built, inputs = counter(read_first=True)
    (check,) = [c for c in recompute(device_run(built, inputs, added("state", 3, 1.0)), OUTPUTS) if not c.is_right]
    assert (check.call, check.untouched, check.actual, check.wanted) == (1, True, 41.0, 40.0)


def test_a_code_may_fall_either_way_at_a_tie_alone() -> None:
    """Row 0 is quantized at scale 2 / 255: 1 / 255 is half a code. Row 1 has no tie."""
    limits = {"qmin": -128, "qmax": 127}
    attrs = {**limits, "rounding": 0, "group_size": 2, "group_padded": 2, "step": 2}
    scale = torch.tensor([2 / 255])
    x = torch.tensor([[1.0, 1 / 255]])
    slots = {"x": x, "scale": scale, "zp": torch.zeros(1, dtype=torch.int8), "q": torch.zeros(1, 2, dtype=torch.int8)}
    wanted = torch.tensor([[127, 0]], dtype=torch.int8)
    assert error_bound("quantize_and_pack", "q", slots, attrs, wanted, torch.int8)[0].tolist()[1] == 1
    away = {**slots, "x": torch.tensor([[1.0, 1.2 / 255]])}
    wanted = torch.tensor([[127, 1]], dtype=torch.int8)
    assert error_bound("quantize_and_pack", "q", away, attrs, wanted, torch.int8)[0].tolist()[1] == 0


def test_a_quantized_chain_names_codes_and_linear() -> None:
    chain_ = Chain(k=64, n=24, group_size=32, asymmetric=True, bias=True)
    built = build(chain_, random_weights(chain_))
    inputs: list[torch.Tensor | int] = [torch.randn(3, 64, generator=torch.Generator().manual_seed(0))]
    assert wrong(built, inputs) == []
    assert (0, "zp") in wrong(built, inputs, added("zp", 1, 1))
    assert (1, "q") in wrong(built, inputs, added("q", 70, 2))
    assert wrong(built, inputs, added("y", 30, 1e-2)) == [(2, "y")]


def test_excess_of_what_is_not_finite() -> None:
    inf, nan = float("inf"), float("nan")
    actual = torch.tensor([inf, nan, 1.0, nan, 65504.0, -inf], dtype=torch.float16)
    wanted = torch.tensor([inf, nan, inf, 1.0, 7e4, inf], dtype=torch.float64)
    assert excess(actual, wanted, torch.ones(6).double()).tolist() == [0.0, 0.0, inf, inf, 0.0, inf]


def test_integers_are_judged_where_nothing_is_rounded() -> None:
    a, b = torch.tensor([1, 2]), torch.tensor([1, 3])
    assert OutputCheck.of(0, a, b, 0.0) == OutputCheck(0, 0.5, 0.0)
    assert not OutputCheck.of(0, a, b, 0.0).is_right
    assert OutputCheck.of(0, a, b, 1e-3).is_right
    assert not OutputCheck.of(0, torch.tensor([1.0, float("nan")]), torch.ones(2), 1e-3).is_right
    assert output_tolerance(chain()[0][0]) == 1e-3


@pytest.mark.parametrize(("depth", "tolerance"), [(1, 5e-2), (4, 0.1), (121, 0.55)])
def test_a_deeper_program_may_end_farther_off(depth: int, tolerance: float) -> None:
    """Each quantization adds its own noise."""
    b = ProgramBuilder()
    x, scale = b.tensor("x", "f32", [2, 32]), b.tensor("scale", "f32", [2])
    zp, q = b.tensor("zp", "i8", [2]), b.tensor("q", "i8", [2, 32])
    b.input(x)
    limits = {"qmin": -128, "qmax": 127}
    b.call("choose_qparams_per_row", {"x": x, "scale": scale, "zp": zp}, {"mapping": 0, "eps": 1e-5, **limits})
    groups = {"rounding": 0, "group_size": 32, "group_padded": 32, "step": 32}
    for _ in range(depth):
        b.call("quantize_and_pack", {"x": x, "scale": scale, "zp": zp, "q": q}, {**groups, **limits})
    b.output(q)
    assert output_tolerance(b.build()[0]) == pytest.approx(tolerance)


def test_the_report_tells_all_about_the_first_wrong_call() -> None:
    built, inputs = chain()
    found = device_run(built, inputs, added("w", 3, 0.5))
    picks = {
        i: Pick(i, call.name, call.kernel, "elements", f"elementwise_binary/elements[{i}]", (1, 1, 1), {}, None, "", ())
        for i, call in enumerate(built[0].calls)
    }
    run = Run("forward", 0, "some device", built[0], (), picks, SHADERS, recompute(found, OUTPUTS), ())
    text = str(Verification((run,)))
    assert text.startswith("forward: delegate 0 on some device\n")
    assert [line.endswith("  WRONG") for line in text.splitlines()[2:5]] == [False, False, True]
    for part in (
        "call 2 elementwise_binary_2: slot y is wrong",
        "elementwise_binary.comp",
        "  a          f32 [5] z (buffer, arena)",
        "  wrong      1 of 5 elements",
        "w[3] is 32.5; the reference gives 32, ",
    ):
        assert part in text
    assert not Verification((run,)).is_right


def test_the_verdict_of_a_run_that_is_right() -> None:
    built, inputs = chain()
    checks: tuple[SlotCheck, ...] = recompute(device_run(built, inputs), OUTPUTS)
    outputs = (OutputCheck(0, 0.5, 1e-3),)
    picks = {i: Pick(i, "", "arange", "elements", "key", (1, 1, 1), {}, None, "", ()) for i in range(3)}
    right = Run("forward", 0, "d", built[0], (), picks, SHADERS, checks, ())
    assert Verification((right,)).verdict() == "3 calls in 1 runs of delegates: all within tolerance"
    summed = Run("forward", 0, "d", built[0], (), picks, SHADERS, checks, outputs)
    assert Verification((right, summed)).verdict().endswith("although every call is within its tolerance")


def test_inputs_and_a_prompt_are_refused() -> None:
    from zeropoint import verify

    with pytest.raises(OptionError, match=r"^verify: inputs and a prompt; give one of them$"):
        verify("a.pte", [torch.zeros(1)], prompt="b")

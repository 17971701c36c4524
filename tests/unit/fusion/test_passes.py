"""Each fusion pass by itself: what it puts in the place of which calls, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.op.blocks import Block
from tests.op.chain import Chain
from zeropoint import CompileOptions, ProgramBuilder
from zeropoint.errors import OptionError
from zeropoint.fusion import fuse
from zeropoint.kernels._generated.signatures import BinaryOp, UnaryOp
from zeropoint.lowering.options import FUSIONS
from zeropoint.program import Dim, Program

CHAIN = Chain(k=64, n=64, group_size=32)
LEAN = Chain(k=64, n=64, group_size=32, sums=False)  # the linear itself takes a residual
QUANTIZE, LINEAR, ROW = ["choose_qparams_per_row", "quantize_and_pack"], ["linear_dq8ca"], ["row_linear"]
GATE, ROWS = ["gated_activation"], ["quantize_rows"]
ADDITION: dict[str, int | float] = {  # of 64 elements
    **{f"{slot}_stride{axis}": int(axis == 3) for slot in "ab" for axis in range(4)},
    **{"size0": 1, "size1": 1, "size2": 1, "size3": 64, "a_offset": 0, "b_offset": 0},
    **{"op": int(BinaryOp.ADD), "alpha": 1.0},
}


def plain(program: Program) -> list[str]:
    return [program.calls[index].kernel for index in program.plain_calls()]


def fused(program: Program) -> list[list[str]]:
    return [[program.calls[index].kernel for index in item.fused_calls] for item in program.alternatives]


@pytest.mark.parametrize(
    ("block", "fusions", "calls", "offered"),
    [
        (Block(CHAIN), "none", [*QUANTIZE, *LINEAR], []),
        (Block(CHAIN), "quantize", [*ROWS, *LINEAR], []),
        (Block(CHAIN), "row_linear", [*QUANTIZE, *LINEAR], []),  # reads what `quantize` makes
        (Block(CHAIN), "quantize,row_linear", [*ROWS, *LINEAR], [ROW]),
        (Block(CHAIN, "norm"), "quantize", ["rms_norm", *ROWS, *LINEAR], []),
        (Block(CHAIN, "norm"), "quantize,norm_quantize", [*ROWS, *LINEAR], []),
        (Block(CHAIN, "norm"), "quantize, row_linear", ["rms_norm", *ROWS, *LINEAR], [ROW]),
        (Block(CHAIN, "gated"), "quantize,gated_quantize,row_linear", [*ROWS, *LINEAR], []),
        (Block(CHAIN, "gated"), "quantize,norm_quantize", [*GATE, *ROWS, *LINEAR], []),
        (Block(CHAIN, "plain", "residual"), "quantize,row_linear", [*ROWS, *LINEAR, "elementwise_binary"], [ROW]),
        (Block(CHAIN, "plain", "residual"), "all", [*ROWS, *LINEAR, "elementwise_binary"], [ROW]),
        (Block(LEAN, "plain", "residual"), "quantize,row_linear", [*ROWS, *LINEAR, "elementwise_binary"], [ROW]),
        (Block(LEAN, "plain", "residual"), "quantize,residual", [*ROWS, *LINEAR], []),
        (Block(LEAN, "plain", "residual"), "all", [*ROWS, *LINEAR], [ROW]),
        (Block(CHAIN, "norm", "gated"), "all", [*ROWS, *LINEAR, *ROWS, *LINEAR], [ROW * 2]),
        (
            Block(CHAIN, "norm", "gated"),
            "quantize,norm_quantize,row_linear",
            [*ROWS, *LINEAR, *GATE, *ROWS, *LINEAR],
            [ROW, ROW],
        ),
    ],
)
def test_passes(block: Block, fusions: str, calls: list[str], offered: list[list[str]]) -> None:
    program, _ = block.build(fusions)
    assert plain(program) == calls
    assert fused(program) == offered


def test_the_residual_is_part_of_the_alternative_only_when_asked() -> None:
    block = Block(CHAIN, "plain", "residual")
    sizes = {name: block.build(name)[0].alternatives[0].plain for name in ("quantize,row_linear", "all")}
    assert sizes == {"quantize,row_linear": 2, "all": 3}


def test_the_residual_of_a_linear_is_that_of_its_alternative() -> None:
    program, _ = Block(LEAN, "norm", "residual").build("all")
    (item,) = program.alternatives
    (row,) = item.fused_calls
    linear = program.calls[program.plain_calls()[-1]]
    bound = [{arg.slot: arg.tensor for arg in call.args} for call in (linear, program.calls[row])]
    assert bound[0]["residual"] == bound[1]["residual"]
    assert bound[0]["y"] == bound[1]["y"]
    assert item.plain == 2


def test_a_linear_of_two_additions_takes_the_first() -> None:
    b = ProgramBuilder()
    x, z, u, first, second = (b.tensor(name, "f32", [1, 64]) for name in ("x", "z", "u", "first", "second"))
    for tensor in (x, z, u):
        b.input(tensor)
    y = Block(LEAN)._linear(b, x, Dim(1), LEAN)
    b.call("elementwise_binary", {"a": z, "b": y, "y": first}, ADDITION)
    b.call("elementwise_binary", {"a": first, "b": u, "y": second}, ADDITION)
    b.output(second)
    fuse(b, CompileOptions())
    program = b.build(drop_unused=True)[0]
    assert plain(program) == [*ROWS, *LINEAR, "elementwise_binary"]
    assert [(item.plain, item.fused) for item in program.alternatives] == [(2, 1)]
    program.verify()


def test_a_linear_that_adds_is_not_gated() -> None:
    """What a gate reads of a row_linear is the linear's alone."""
    b = ProgramBuilder()
    x, z, total, gate = (
        b.tensor(name, "f32", [1, n]) for name, n in (("x", 64), ("z", 128), ("total", 128), ("gate", 64))
    )
    b.input(x)
    b.input(z)
    y = Block(LEAN)._linear(b, x, Dim(1), replace(LEAN, n=128))
    b.call("elementwise_binary", {"a": z, "b": y, "y": total}, ADDITION | {"size3": 128})
    places = {"gate_offset": 0, "gate_row_stride": 128, "up_offset": 64, "up_row_stride": 128}
    b.call("gated_activation", {"gate": total, "up": total, "y": gate}, {"op": 0, "row_length": 64, **places})
    b.output(Block(LEAN)._linear(b, gate, Dim(1), LEAN))
    fuse(b, CompileOptions())
    program = b.build(drop_unused=True)[0]
    assert plain(program) == [*ROWS, *LINEAR, *ROWS, *LINEAR]
    assert fused(program) == [ROW]
    program.verify()


@pytest.mark.parametrize(
    ("changed", "n_plain"),
    [
        ({}, 3),
        ({"size1": 4, "size2": 4, "size3": 4, "a_stride1": 16, "a_stride2": 4, "b_stride1": 16, "b_stride2": 4}, 3),
        ({"op": int(BinaryOp.SUB)}, 2),
        ({"alpha": 2.0}, 2),
        ({"a_offset": 64}, 2),
        ({"size2": 4, "size3": 16, "a_stride2": 1, "a_stride3": 4, "b_stride2": 1, "b_stride3": 4}, 2),  # transposed
        ({"a_stride3": 0}, 2),  # one element for all
    ],
)
def test_a_residual_is_added_element_after_element(changed: dict[str, int | float], n_plain: int) -> None:
    b = ProgramBuilder()
    x, residual, total = (b.tensor(name, "f32", [1, 64]) for name in ("x", "residual", "total"))
    b.input(x)
    b.input(residual)
    y = Block(CHAIN)._linear(b, x, Dim(1), CHAIN)
    b.call("elementwise_binary", {"a": residual, "b": y, "y": total}, ADDITION | changed)
    b.output(total)
    fuse(b, CompileOptions())
    (found,) = b.build(drop_unused=True)[0].alternatives
    assert found.plain == n_plain


def sum_of_two(*, shared: bool) -> Program:
    """The sum of two linears' results, of one activation or of two."""
    b = ProgramBuilder()
    x, z, total = (b.tensor(name, "f32", [1, 64]) for name in ("x", "z", "total"))
    b.input(x)
    b.input(z)
    first, second = _pair(b, x, 1) if shared else (Block(CHAIN)._linear(b, item, Dim(1), CHAIN) for item in (x, z))
    b.call("elementwise_binary", {"a": first, "b": second, "y": total}, ADDITION)
    b.output(total)
    fuse(b, CompileOptions())
    return b.build(drop_unused=True)[0]


def test_an_addition_is_part_of_one_alternative_only() -> None:
    program = sum_of_two(shared=False)
    assert fused(program) == [ROW, ROW]
    assert sorted(item.plain for item in program.alternatives) == [2, 3]


def test_a_residual_is_made_before_the_alternative() -> None:
    """Neither linear can add what the other one makes beside it."""
    program = sum_of_two(shared=True)
    assert fused(program) == [ROW * 2]
    assert [item.plain for item in program.alternatives] == [3]
    program.verify()


def sums_of_linears(form: str) -> Program:
    """first(x) + second(x), + the ReLU of that, or + another linear of that (LoRA), of one quantized activation."""
    b = ProgramBuilder()
    x, total, between = (b.tensor(name, "f32", [1, 64]) for name in ("x", "total", "between"))
    b.input(x)
    first, second = _pair(b, x, 1, LEAN)
    if form == "relu":
        attrs = {"op": int(UnaryOp.RELU), "alpha": 0.0, "beta": 0.0}
        b.call("elementwise_unary", {"x": second, "y": between}, attrs)
        second = between
    if form == "lora":
        second = Block(LEAN)._linear(b, second, Dim(1), LEAN)
    b.call("elementwise_binary", {"a": first, "b": second, "y": total}, ADDITION)
    b.output(total)
    fuse(b, CompileOptions())
    return b.build(drop_unused=True)[0]


@pytest.mark.parametrize("form", ["plain", "relu", "lora"])
def test_what_a_linear_adds_is_not_made_beside_it(form: str) -> None:
    """For one row, linears of one activation are one alternative: an addition that needs another stays outside."""
    program = sums_of_linears(form)
    assert fused(program)[0] == ROW * 2
    assert "elementwise_binary" in plain(program) or form == "lora"
    program.verify()


def test_a_residual_of_other_rows_is_not_the_linears() -> None:
    """What has the linear's size at most, and more rows than it at run time."""
    b = ProgramBuilder()
    rows = b.symbol("rows", 1, 16)
    x, total = (b.tensor(name, "f32", [rows, 64]) for name in ("x", "total"))
    places = b.tensor("places", "f32", [16, 64])
    b.input(x)
    b.input(places)
    y = Block(LEAN)._linear(b, x, rows, LEAN)
    b.call("elementwise_binary", {"a": places, "b": y, "y": total}, ADDITION | {"size3": Dim(0, ((64, 0),))})
    b.output(total)
    fuse(b, CompileOptions())
    program = b.build(drop_unused=True)[0]
    assert plain(program) == [*ROWS, *LINEAR, "elementwise_binary"]
    assert [item.plain for item in program.alternatives] == [2]


def test_row_linear_has_one_dtype() -> None:
    b = ProgramBuilder()
    x = b.tensor("x", "f16", [1, 64])
    b.input(x)
    b.output(Block(CHAIN)._linear(b, x, Dim(1), CHAIN))
    fuse(b, CompileOptions())
    assert fused(b.build(drop_unused=True)[0]) == []


def test_several_rows_have_no_row_linear() -> None:
    b = ProgramBuilder()
    rows = b.symbol("rows", 2, 8)
    x = b.tensor("x", "f32", [rows, 64])
    b.input(x)
    b.output(Block(CHAIN)._linear(b, x, rows, CHAIN))
    fuse(b, CompileOptions())
    assert fused(b.build(drop_unused=True)[0]) == []


def test_a_scale_of_two_packings_is_chosen_by_itself() -> None:
    b = ProgramBuilder()
    x = b.tensor("x", "f32", [1, 64])
    b.input(x)
    b.output(Block(CHAIN)._linear(b, x, Dim(1), CHAIN))
    choose, pack, linear = (call for call, _ in b.made_calls())
    q, y = b.tensor("q2", "i8", [1, 64]), b.tensor("y2", "f32", [1, 64])
    again = {arg.slot: arg.tensor for arg in pack.args} | {"q": q}
    b.call(pack.kernel, again, {attr.name: attr.value for attr in pack.attrs}, name="again")
    again = {arg.slot: arg.tensor for arg in linear.args} | {"q": q, "y": y}
    b.call(linear.kernel, again, {attr.name: attr.value for attr in linear.attrs}, name="second")
    b.output(y)
    fuse(b, CompileOptions())
    assert plain(b.build(drop_unused=True)[0]).count(choose.kernel) == 1


def test_row_linear_gives_no_codes() -> None:
    """They are returned, so they are computed."""
    b = ProgramBuilder()
    x = b.tensor("x", "f32", [1, 64])
    b.input(x)
    b.output(Block(CHAIN)._linear(b, x, Dim(1), CHAIN))
    b.output(b.made_calls()[-1][0].tensor("scale"))
    fuse(b, CompileOptions())
    program = b.build(drop_unused=True)[0]
    assert plain(program) == [*ROWS, *LINEAR]
    assert fused(program) == []


def test_halves_the_other_way_round_are_no_gated_linear() -> None:
    b = ProgramBuilder()
    x, h = b.tensor("x", "f32", [1, 64]), b.tensor("h", "f32", [1, 32])
    b.input(x)
    wide = Block(CHAIN)._linear(b, x, Dim(1), CHAIN)
    places = {"gate_offset": 32, "gate_row_stride": 64, "up_offset": 0, "up_row_stride": 64}
    b.call("gated_activation", {"gate": wide, "up": wide, "y": h}, {"op": 0, "row_length": 32, **places})
    b.output(Block(CHAIN)._linear(b, h, Dim(1), Chain(k=32, n=64, group_size=32)))
    fuse(b, CompileOptions())
    program = b.build(drop_unused=True)[0]
    assert plain(program) == [*ROWS, *LINEAR, *ROWS, *LINEAR]
    assert fused(program) == [ROW]


def test_what_an_output_needs_stays() -> None:
    """The norm's result is returned too, so it is still computed."""
    b = ProgramBuilder()
    rows = b.symbol("rows", 1, 8)
    x, h = b.tensor("x", "f32", [rows, 64]), b.tensor("h", "f32", [rows, 64])
    b.input(x)
    places = {"x_offset": 0, "x_inner_rows": 1, "x_outer_stride": 64, "x_inner_stride": 0}
    b.call("rms_norm", {"x": x, "y": h}, {"eps": 1e-6, "weight_offset": 1.0, "row_length": 64, **places})
    b.output(h)
    b.output(Block(CHAIN)._linear(b, h, rows, CHAIN))
    fuse(b, CompileOptions())
    program, _ = b.build(drop_unused=True)
    assert plain(program) == ["rms_norm", *ROWS, *LINEAR]


def two_linears(*, gate_first: bool = True, other_reader: bool = False) -> Program:
    """A gate and an up projection of one quantized activation."""
    b = ProgramBuilder()
    rows = b.symbol("rows", 2, 8)
    x, y = b.tensor("x", "f32", [rows, 64]), b.tensor("y", "f32", [rows, 64])
    b.input(x)
    first, second = _pair(b, x, rows)
    gate, up = (first, second) if gate_first else (second, first)
    places = {"gate_offset": 0, "gate_row_stride": 64, "up_offset": 0, "up_row_stride": 64}
    b.call("gated_activation", {"gate": gate, "up": up, "y": y}, {"op": 0, "row_length": 64, **places})
    b.output(y)
    if other_reader:
        z = b.tensor("z", "f32", [rows, 64])
        b.call("elementwise_unary", {"x": first, "y": z}, {"op": 0, "alpha": 0.0, "beta": 0.0})
        b.output(z)
    fuse(b, CompileOptions(fusions="quantize,merged_linears"))
    return b.build(drop_unused=True)[0]


def _pair(b: ProgramBuilder, x: int, rows: object, chain: Chain = CHAIN) -> tuple[int, int]:
    block = Block(chain)
    first = block._linear(b, x, rows, chain)  # type: ignore[arg-type]
    linear = b.made_calls()[-1][0]
    y = b.tensor("y2", "f32", [rows, 64])  # type: ignore[list-item]
    args = {arg.slot: arg.tensor for arg in linear.args} | {"y": y}
    b.call(linear.kernel, args, {attr.name: attr.value for attr in linear.attrs}, name="second")
    return first, y


@pytest.mark.parametrize(("gate_first", "offsets"), [(True, (0, 64)), (False, (64, 0))])
def test_two_linears_of_one_activation_are_one(gate_first: bool, offsets: tuple[int, int]) -> None:
    program = two_linears(gate_first=gate_first)
    assert plain(program) == [*ROWS, *LINEAR, *GATE]
    attrs = {attr.name: attr.value for attr in program.calls[-1].attrs}
    assert (attrs["gate_offset"], attrs["up_offset"]) == offsets
    assert (attrs["gate_row_stride"], attrs["up_row_stride"]) == (128, 128)
    w = program.tensors[program.calls[1].tensor("w")]
    assert [dim.base for dim in w.dims] == [2, 128, 32]


def test_linears_whose_results_are_read_whole_stay_apart() -> None:
    assert plain(two_linears(other_reader=True)).count("linear_dq8ca") == 2


def test_parts_of_a_linear_that_is_merged_stay_where_they_were() -> None:
    """Two gated layers of one activation, each of the halves of its own linear."""
    b = ProgramBuilder()
    rows = b.symbol("rows", 2, 8)
    x = b.tensor("x", "f32", [rows, 64])
    b.input(x)
    for linear in _pair(b, x, rows):
        y = b.tensor("y", "f32", [rows, 32])
        places = {"gate_offset": 0, "gate_row_stride": 64, "up_offset": 32, "up_row_stride": 64}
        b.call("gated_activation", {"gate": linear, "up": linear, "y": y}, {"op": 0, "row_length": 32, **places})
        b.output(y)
    fuse(b, CompileOptions(fusions="quantize,merged_linears"))
    program, _ = b.build(drop_unused=True)
    assert plain(program) == [*ROWS, *LINEAR, *GATE * 2]
    found = [{attr.name: attr.value for attr in call.attrs} for call in program.calls[2:]]
    assert [(item["gate_offset"], item["up_offset"]) for item in found] == [(0, 32), (64, 96)]


def test_a_row_that_begins_elsewhere_keeps_its_linears_apart() -> None:
    """The last of several rows: its place depends on the width of the rows."""
    b = ProgramBuilder()
    x, y = b.tensor("x", "f32", [3, 64]), b.tensor("y", "f32", [1, 64])
    b.input(x)
    gate, up = _pair(b, x, 3)
    places = {"gate_offset": 128, "gate_row_stride": 64, "up_offset": 128, "up_row_stride": 64}
    b.call("gated_activation", {"gate": gate, "up": up, "y": y}, {"op": 0, "row_length": 64, **places})
    b.output(y)
    fuse(b, CompileOptions(fusions="quantize,merged_linears"))
    assert plain(b.build(drop_unused=True)[0]).count("linear_dq8ca") == 2


def test_a_norm_of_another_dtype_stays() -> None:
    """A half activation with factors in f32: no variant has both."""
    b = ProgramBuilder()
    rows = b.symbol("rows", 2, 8)
    x, h = b.tensor("x", "f16", [rows, 64]), b.tensor("h", "f16", [rows, 64])
    weight = b.tensor("weight", "f32", [64])
    b.input(x)
    b.input(weight)
    places = {"x_offset": 0, "x_inner_rows": 1, "x_outer_stride": 64, "x_inner_stride": 0}
    attrs = {"eps": 1e-6, "weight_offset": 0.0, "row_length": 64, **places}
    b.call("rms_norm", {"x": x, "weight": weight, "y": h}, attrs)
    b.output(Block(CHAIN)._linear(b, h, rows, Chain(k=64, n=64, group_size=32, compute="f16")))
    fuse(b, CompileOptions())
    assert plain(b.build(drop_unused=True)[0]) == ["rms_norm", *ROWS, *LINEAR]


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(OptionError, match=r"fusions: 'norm'; offered all, none, or some of merged_linears, "):
        CompileOptions(fusions="norm")
    assert CompileOptions(fusions=",".join(FUSIONS)).fuses("residual")
    assert not CompileOptions(fusions="quantize").fuses("residual")

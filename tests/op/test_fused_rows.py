"""quantize_rows and row_linear against the calls that they stand for: the same values in f32, and `verify` of each.

The one Program is lowered twice, without fusion and with all of it, and runs on the same inputs.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.op import integers
from tests.op.blocks import MAX_ROWS, Block
from tests.op.by_day import by_day
from tests.op.calls import SHADERS, device_facts, fitting_views, has_subgroups, is_software, library_of
from tests.op.chain import Chain, expected, read_back
from tests.op.rows import non_finite_rows, quantization_rows
from zeropoint.kernels._generated.signatures import GateOp
from zeropoint.runtime.player import LoadedProgram, Pick
from zeropoint.verification.verify import verify_program

OTHER_ORDERS = ("wide", "deep", "broad")  # forms of row_linear in 64, 32 or 8 slices; the linear has 16


def run(
    block: Block, fusions: str, inputs: list[torch.Tensor], library: bytes | None = None
) -> tuple[torch.Tensor, list[Pick]]:
    program, constants = block.build(fusions)
    with LoadedProgram(program, constants, library=library) as loaded:
        (y,) = loaded.execute([value.numpy() for value in inputs])
        return torch.from_numpy(y), list(loaded.picks())


def assert_same(fused: torch.Tensor, plain: torch.Tensor, picked: list[Pick]) -> None:
    """Bit for bit on a software device, but for sums in another order. Other drivers may contract to multiply-adds."""
    assert torch.equal(fused.isnan(), plain.isnan())
    fused, plain = fused.nan_to_num(7.0), plain.nan_to_num(7.0)
    if is_software() and not any(pick.algorithm in OTHER_ORDERS for pick in picked):
        assert torch.equal(fused, plain)
    else:
        assert float((fused - plain).norm()) <= 1e-6 * float(plain.norm())


def check(block: Block, inputs: list[torch.Tensor], kernels: list[str]) -> None:
    plain, _ = run(block, "none", inputs)
    fused, picked = run(block, "all", inputs)
    assert [pick.kernel for pick in picked] == kernels
    if block.chain.compute == "f32":
        assert_same(fused, plain, picked)
    verified = verify_program(*block.build("all"), inputs)
    assert verified.is_right, verified.verdict()


ZERO_POINTS = list(itertools.product(("i8", "i32", "f32", "f16"), ("buffer", "image")))
FORMULAS = [(0, 0, 1e-7), (1, 0, 1e-30), (2, 1, 1e-7), (3, 2, 1e-5)]
OTHERS = ("plain", "bare_norm", "gated")


@pytest.mark.parametrize("disabled", ["", pytest.param("is_cpu", marks=pytest.mark.slow)], ids=["default", "gpu"])
@pytest.mark.parametrize("compute", ["f32", pytest.param("f16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("zp", "storage"), ZERO_POINTS)
@pytest.mark.parametrize("prologue", ["norm", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_zero_point(
    prologue: str, zp: str, storage: str, compute: str, disabled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """quantize_rows, its group sums included, then the linear of several rows."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    asymmetric = storage == "image"
    block = Block(
        Chain(k=96, n=5, group_size=32, zp=zp, storage=storage, compute=compute, asymmetric=asymmetric), prologue
    )
    check(block, block.inputs(7), ["quantize_rows", "linear_dq8ca"])


@pytest.mark.parametrize("disabled", ["", "is_cpu"], ids=["default", "gpu"])
@pytest.mark.parametrize(("zp", "storage"), ZERO_POINTS)
def test_integers_of_every_zero_point(zp: str, storage: str, disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that nothing comes before: torch's, bit for bit."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    block = Block(Chain(k=96, n=5, group_size=32, zp=zp, storage=storage, asymmetric=True))
    program, constants = block.build("quantize")
    with LoadedProgram(program, constants, keep_all=True) as loaded:
        for part in quantization_rows(96).split(MAX_ROWS):
            loaded.execute([part.numpy()])
            slots = read_back(loaded, program, 0, len(part))
            for slot, wanted in expected(program, 0, slots, {"scale", "zp", "q", "group_sums"}).items():
                assert torch.equal(slots[slot], wanted), slot
            integers.note(slots)
        assert loaded.picks()[0].kernel == "quantize_rows"


@pytest.mark.parametrize(
    ("rows", "prologue", "mapping", "rounding", "eps"),
    by_day(
        ((rows, prologue, *form) for rows in (1, 5) for prologue in ("norm", *OTHERS[:2]) for form in FORMULAS),
        lambda rows, prologue, mapping, *_: (mapping == 3 or prologue == "norm") and (rows == 1 or mapping == 0),
    ),
)
def test_every_formula(
    rows: int, prologue: str, mapping: int, rounding: int, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    chain = Chain(k=160, n=11, group_size=32, mapping=mapping, rounding=rounding, eps=eps)
    kernels = ["row_linear"] if rows == 1 else ["quantize_rows", "linear_dq8ca"]
    block = Block(chain, prologue)
    check(block, block.inputs(rows), kernels)


@pytest.mark.parametrize(
    "disabled", ["is_cpu", pytest.param("is_cpu,int8_dot", marks=pytest.mark.slow)], ids=["dot", "nodot"]
)
@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("compute", ["f32", pytest.param("f16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("ending", "asymmetric", "bias"),
    by_day(
        itertools.product(("none", "residual", "gated"), (False, True), (False, True)),
        lambda ending, asymmetric, bias: asymmetric != bias and asymmetric == (ending == "residual"),
    ),
)
def test_one_row(
    ending: str, asymmetric: bool, bias: bool, compute: str, bits: int, disabled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every variant of row_linear, and what follows the linear."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    chain = Chain(k=96, n=32, group_size=32, bits=bits, compute=compute, asymmetric=asymmetric, bias=bias)
    scales = [("f32", True), ("f16", True)][: 1 + (compute == "f16")]
    forms = [*itertools.product(("plain", "norm"), scales), *[("norm", ("f16", False))] * (not asymmetric)]
    for prologue, (w_scale, sums) in forms:
        block = Block(replace(chain, w_scale=w_scale if ending != "gated" else "f32", sums=sums), prologue, ending)
        check(block, block.inputs(1), ["row_linear"] * (2 if ending == "gated" else 1))


@pytest.mark.parametrize(
    ("bits", "compute", "disabled", "w_scale", "prologue"),
    by_day(
        itertools.product(
            (4, 8), ("f32", "f16"), ("", "is_cpu", "is_cpu,int8_dot"), ("f32", "f16"), ("plain", "norm", "gated")
        ),
        lambda *case: case in ((4, "f32", "is_cpu", "f32", "norm"), (4, "f32", "is_cpu", "f16", "gated")),
    ),
)
def test_a_residual_of_several_rows(
    bits: int, compute: str, disabled: str, w_scale: str, prologue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the linear's, whatever the rows, where the zero points are int8 and nothing else is added."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    chain = Chain(k=96, n=37, group_size=32, bits=bits, compute=compute, w_scale=w_scale, sums=False)
    block = Block(chain, prologue, "residual")
    for rows in (2, 9, 16):
        check(block, block.inputs(rows), ["quantize_rows", "linear_dq8ca"])


@pytest.mark.parametrize(
    ("disabled", "ending", "compute", "k", "group_size", "bits"),
    by_day(
        (
            (*case, *form)
            for case in itertools.product(("is_cpu", "is_cpu,int8_dot"), ("residual", "gated"), ("f32", "f16"))
            for form in ((96, 32, 4), (48, 24, 8))
        ),
        lambda *case: case[:4] in (("is_cpu", "gated", "f16", 96), ("is_cpu,int8_dot", "residual", "f32", 48)),
    ),
)
def test_one_row_with_float_zero_terms(
    disabled: str, ending: str, compute: str, k: int, group_size: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    chain = Chain(k=k, n=32, group_size=group_size, bits=bits, compute=compute, terms=True)
    block = Block(chain, "norm", ending)
    check(block, block.inputs(1), ["row_linear"] * (2 if ending == "gated" else 1))


SHAPES = [(8, 1, 8), (40, 5, 8), (24, 7, 24), (63, 31, 63), (576, 64, 32), (768, 65, 192), (512, 32, 256),
          (1009, 29, 1009), (2048, 130, 64), (288, 4, 96), (2176, 12, 128), (16384, 3, 32),
          (32, 8197, 32), (64, 12300, 64)]  # fmt: skip
DAILY = [(8, 1, 8), (63, 31, 63), (576, 64, 32), (1009, 29, 1009), (2176, 12, 128), (16384, 3, 32), (64, 12300, 64)]


@pytest.mark.parametrize(
    ("prologue", "bits", "k", "n", "group_size"),
    by_day(
        ((prologue, bits, *shape) for prologue in ("plain", "norm") for bits in (4, 8) for shape in SHAPES),
        lambda prologue, bits, *shape: prologue == "norm" and bits == 4 and shape in DAILY,
    ),
)
def test_shapes(prologue: str, bits: int, k: int, n: int, group_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    block = Block(Chain(k=k, n=n, group_size=group_size, bits=bits, asymmetric=bits == 4), prologue, "residual")
    check(block, block.inputs(1), ["row_linear"])


@pytest.mark.parametrize(
    ("prologue", "k", "compute", "gap"),
    by_day(
        itertools.product(("norm", "bare_norm", "gated"), (96, 48), ("f32", "f16"), (1, 2, 4)),
        lambda prologue, k, compute, gap: (
            k == 96 and (compute == "f16") == (prologue == "gated") and (gap == 2) == (prologue == "bare_norm")
        ),
    ),
)
def test_rows_that_start_anywhere(
    prologue: str, k: int, compute: str, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elements are read by fours where a row, and what gates it, start at a multiple of four."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    block = Block(Chain(k=k, n=9, group_size=32 if k == 96 else 24, compute=compute), prologue, gap=gap)
    for rows in (1, 7):
        is_one = rows == 1 and prologue != "gated"
        check(block, block.inputs(rows), ["row_linear"] if is_one else ["quantize_rows", "linear_dq8ca"])


def test_a_wide_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workgroups that make several tiles of outputs, of both halves."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    block = Block(Chain(k=32, n=8224, group_size=32), "norm", "gated")
    check(block, block.inputs(1), ["row_linear"] * 2)


FUSED = ("row_linear", "quantize_rows", "linear_dq8ca")
PLAIN = ("elementwise_binary", "elementwise_unary", "rms_norm", "gated_activation")


def narrowed(kernel: str, bits: int) -> str:
    """A manifest of the dtypes and storages of a plain Chain alone: every other variant would be built for nothing."""

    def one(found: re.Match[str]) -> str:
        if found["slot"] == "w" and bits != 4:  # some algorithms have int4 weights alone
            return found[0]
        kept = {"zp": "i8", "w": "i4", "w_zp": "i32"}.get(found["slot"], "f32")
        return f'{found["before"]}["{kept}"]' if f'"{kept}"' in found["dtypes"] else found[0]

    manifest = (SHADERS / f"{kernel}.toml").read_text()
    manifest = re.sub(r"^(?P<before>(?P<slot>\w+) = { io = .*?dtype = )(?P<dtypes>\[.*?\])", one, manifest, flags=re.M)
    return fitting_views(manifest.replace('storage = ["buffer", "image"]', 'storage = ["buffer"]'))


@cache
def library_of_shorter_rows(bits: int) -> bytes:
    """With the wide form in 32 KB of shared memory, which is what software devices have."""
    manifests = {kernel: narrowed(kernel, bits) for kernel in (*FUSED, *PLAIN)}
    assert manifests["row_linear"].count("MAX_K = 16384") == 1
    manifests["row_linear"] = manifests["row_linear"].replace("MAX_K = 16384", "MAX_K = 8192")
    return library_of(manifests, {})


def plain_row() -> str:
    """The algorithm of a device that lacks what the fast ones take."""
    return "" if has_subgroups() and device_facts()["int8_dot"] else "row_nodot"


@pytest.mark.parametrize(
    ("k", "n", "group_size", "bits", "ending"),
    by_day(
        [
            (4128, 4128, 32, 4, "gated"),
            (4128, 4096, 32, 4, "residual"),
            (4128, 14400, 32, 4, "none"),
            (4224, 4096, 128, 4, "none"),  # half of the slices have nothing
            (4128, 4128, 32, 8, "gated"),
        ],
        lambda k, n, group_size, bits, ending: group_size == 128,
    ),
)
def test_a_long_row_of_many_outputs(
    k: int, n: int, group_size: int, bits: int, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More lanes quantize it, where a workgroup has them and its shared memory holds what they add up."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    block = Block(Chain(k=k, n=n, group_size=group_size, bits=bits, sums=False), "norm", ending)
    inputs = block.inputs(1)
    check(block, inputs, ["row_linear"] * (2 if ending == "gated" else 1))
    fused, picked = run(block, "all", inputs, library_of_shorter_rows(bits))
    facts = device_facts()
    wide = facts["subgroup_size"] <= 32 and facts["max_workgroup_invocations"] >= 1024
    assert picked[0].algorithm == (plain_row() or ("wide" if wide else "row"))
    assert_same(fused, run(block, "none", inputs)[0], picked)


@pytest.mark.parametrize(
    ("ending", "bits", "k", "n"),
    by_day(
        (
            (ending, bits, *shape)
            for ending in ("none", "residual")
            for bits in (4, 8)
            for shape in ((2048, 2048), (2080, 40), (8192, 24), (16384, 3))
        ),
        lambda ending, bits, k, n: bits == 4 and (ending == "residual") == (k in (2048, 8192)),
    ),
)
def test_a_long_row_of_few_outputs(ending: str, bits: int, k: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More lanes for each output."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    block = Block(Chain(k=k, n=n, group_size=32, bits=bits, sums=False), "norm", ending)
    inputs = block.inputs(1)
    check(block, inputs, ["row_linear"])
    _, picked = run(block, "all", inputs)
    fits = device_facts()["shared_memory_bytes"] >= 40 << 10 and device_facts()["max_workgroup_invocations"] >= 1024
    long = "wide" if fits and device_facts()["subgroup_size"] <= 32 else "row"
    assert picked[0].algorithm == (plain_row() or ("deep" if k <= 8192 else long))


@pytest.mark.parametrize(
    ("ending", "k", "n", "algorithm"),
    by_day(
        [
            ("gated", 2048, 4128, "broad"),
            ("none", 96, 4096, "broad"),  # fewer chunks than slices
            ("none", 4064, 8500, "broad"),  # two tiles a workgroup, the last of which is cut
            ("gated", 2080, 8448, "broad"),
            ("none", 64, 32768, "broad"),
            ("residual", 2048, 4100, "row"),  # no variants of it
            ("none", 64, 33800, "row"),  # nine tiles a workgroup
            ("none", 32, 541000, "row"),  # as many as there are, and more workgroups
        ],
        lambda ending, k, n, algorithm: n in (4128, 33800),
    ),
)
def test_a_short_row_of_many_outputs(
    ending: str, k: int, n: int, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    scales = "f16" if ending == "gated" else "f32"
    block = Block(Chain(k=k, n=n, group_size=32, w_scale=scales, sums=False), "norm", ending)
    inputs = block.inputs(1)
    check(block, inputs, ["row_linear"] * (2 if ending == "gated" else 1))
    _, picked = run(block, "all", inputs)
    assert picked[0].algorithm == (plain_row() or algorithm)


@pytest.mark.parametrize("op", list(GateOp))
def test_every_gate(op: GateOp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    block = Block(Chain(k=64, n=64, group_size=32), "norm", "gated", op)
    check(block, block.inputs(1), ["row_linear"] * 2)
    check(Block(block.chain, "gated", op=op), [torch.randn(3, 128)], ["quantize_rows", "linear_dq8ca"])


@pytest.mark.parametrize("disabled", ["", "is_cpu"])
def test_rows_that_are_hard_to_quantize(disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties, zeros, extremes, subnormals, infinities: one at a time, and many."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    block = Block(Chain(k=96, n=9, group_size=32, asymmetric=True))
    rows = torch.cat([quantization_rows(96), non_finite_rows(96)])
    one = ["quantize_rows", "linear_dq8ca"] if device_facts()["is_cpu"] else ["row_linear"]
    plain, fused = block.build("none"), block.build("all")
    with LoadedProgram(*plain) as a, LoadedProgram(*fused) as b:
        for part in [*rows.split(1), *rows.split(MAX_ROWS)]:
            (wanted,), (found,) = a.execute([part.numpy()]), b.execute([part.numpy()])
            assert [pick.kernel for pick in b.picks()] == (one if len(part) == 1 else ["quantize_rows", "linear_dq8ca"])
            assert_same(torch.from_numpy(found), torch.from_numpy(wanted), list(b.picks()))


def test_a_row_that_is_too_long_takes_the_plain_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    block = Block(Chain(k=16416, n=3, group_size=32))
    check(block, block.inputs(1), ["quantize_rows", "linear_dq8ca"])

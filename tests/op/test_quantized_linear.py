"""choose_qparams_per_row, quantize_and_pack, linear_dq8ca: every zero point, storage, dtype, tier."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from tests.op import integers
from tests.op.by_day import by_day
from tests.op.calls import device_facts, lanes_are_a_vector
from tests.op.chain import Chain, build, expected, random_weights, read_back, weight_constants, worst_row_error
from tests.op.rows import non_finite_rows, quantization_rows
from zeropoint.lowering.packing import Layout
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.player import LoadedProgram

ZERO_POINTS = ("i8", "i32", "f32", "f16")
STORAGES = ("buffer", "image")
EPS_F32 = float(torch.finfo(torch.float32).eps)
SMALLEST_F32 = float(torch.finfo(torch.float32).smallest_normal)
# Of every single row: the f32 sum over steps against f64, and an f16 store. Rows of norms below FLOOR count as if of
# that norm: their outputs are subnormal.
TOLERANCE = {"f32": 5e-7, "f16": 4e-4}
FLOOR = {"f32": 1e-30, "f16": 1e-3}

MATRIX = [
    Chain(k=96, n=37, group_size=32, bits=bits, zp=zp, storage=storage, compute=compute, w_scale=w_scale,
          asymmetric=asymmetric, bias=bias)
    for bits, zp, storage, (compute, w_scale), (asymmetric, bias) in itertools.product(
        (4, 8), ZERO_POINTS, STORAGES, (("f32", "f32"), ("f16", "f32"), ("f16", "f16")),
        ((False, False), (True, True), (False, True), (True, False)),
    )
]  # fmt: skip

SHAPES = [
    *(Chain(k=k, n=n, group_size=g, bits=bits, asymmetric=bits == 4)
      for bits in (4, 8)
      for k, n, g in [
          (8, 1, 8), (16, 3, 16), (40, 5, 8), (24, 7, 24), (63, 31, 63), (60, 33, 12), (576, 64, 32), (768, 65, 192),
          (512, 32, 256), (1009, 29, 1009), (2048, 130, 64), (4096, 17, 8), (320, 63, 40), (288, 4, 96),
          (2176, 12, 128), (11008, 9, 32),
      ]),
]  # fmt: skip

FORMULAS = [
    Chain(k=160, n=11, group_size=32, zp=zp, storage=storage, mapping=mapping, rounding=rounding, eps=eps)
    for zp, storage in itertools.product(ZERO_POINTS, STORAGES)
    for mapping, rounding, eps in [(0, 0, EPS_F32), (1, 0, SMALLEST_F32), (2, 1, EPS_F32), (3, 2, 1e-5)]
]

TERMS = [
    *(Chain(k=96, n=37, group_size=32, bits=bits, zp=zp, storage=storage, compute=compute, terms=True, bias=bits == 4)
      for bits, compute, zp, storage in itertools.product((4, 8), ("f32", "f16"), ZERO_POINTS, STORAGES)),
    *(Chain(k=k, n=n, group_size=g, terms=True)
      for k, n, g in [(40, 5, 8), (48, 7, 24), (576, 64, 32), (768, 65, 192), (4096, 17, 8), (2048, 33, 16)]),
]  # fmt: skip

WITHOUT_SUMS = [
    *(Chain(k=96, n=37, group_size=32, bits=bits, compute=compute, w_scale=w_scale, bias=bits == 4, sums=False)
      for bits, compute, w_scale in itertools.product((4, 8), ("f32", "f16"), ("f32", "f16"))),
    *(Chain(k=k, n=n, group_size=g, bits=bits, w_scale="f16", sums=False)
      for bits in (4, 8)
      for k, n, g in [(8, 1, 8), (40, 5, 8), (48, 7, 24), (768, 65, 192), (512, 32, 256), (2048, 130, 64),
                      (11008, 9, 32)]),
]  # fmt: skip

# What ZEROPOINT_DISABLE turns off, so that every tier runs on every device.
TIERS = ("", "is_cpu", "is_cpu,int8_dot")


def tier(chain: Chain, rows: int) -> str:
    """The algorithm that must be picked: a test that quietly ran another one would prove nothing."""
    if lanes_are_a_vector():
        return "broadcast_gemv" if rows == 1 else "broadcast_tiled"
    facts = device_facts()
    dot, fits = facts["int8_dot"], facts["max_workgroup_invocations"] >= 256
    is_few = fits and rows <= (32 if dot and not facts["is_cpu"] else 8)
    is_usual = chain.storage == "buffer" and chain.zp in ("i8", "f32")
    is_plain = is_usual and not chain.asymmetric and not chain.terms
    if is_few and rows > 1 and dot and facts["subgroup_size"] in (4, 8, 32) and is_plain:
        return "gemv_pair"
    if fits and not is_few and dot and facts["subgroup_size"] == 32 and not facts["is_cpu"] and is_usual:
        return "gemv_rows"
    return ("gemv" if is_few else "tiled") + ("" if dot else "_nodot")


def check(
    chain: Chain,
    x: torch.Tensor,
    *,
    rows_at_once: tuple[int, ...],
    library: bytes | None = None,
) -> None:
    """Runs slices of x; q, zero points and sums must be equal to torch's bit for bit, y within tolerance."""
    weights = random_weights(chain)
    program, constants = build(chain, weights)
    loaded = LoadedProgram(program, constants, keep_all=True, library=library)
    x = x.to(torch.float16 if chain.compute == "f16" else torch.float32)
    start = 0
    for most in itertools.cycle(rows_at_once):
        rows = min(most, len(x) - start)
        if not rows:
            break
        part = x[start : start + rows]
        start += rows
        (y,) = loaded.execute([part.numpy()])
        picks = loaded.picks()
        assert picks[2].algorithm == tier(chain, rows)
        slots = [read_back(loaded, program, call, rows) for call in range(3)]
        for call, outputs in (
            (0, {"scale", "zp"}),
            (1, {"q"} | ({"group_sums"} if chain.asymmetric or chain.terms else set())),
        ):
            for slot, wanted in expected(program, call, slots[call], outputs).items():
                assert torch.equal(slots[call][slot], wanted), f"{chain} rows {start}: {slot}"
        wanted_y = expected(program, 2, slots[2], {"y"})["y"]
        assert torch.equal(torch.isnan(slots[2]["y"]), torch.isnan(wanted_y))
        error = worst_row_error(slots[2]["y"].nan_to_num(), wanted_y.nan_to_num(), floor=FLOOR[chain.compute])
        assert error <= TOLERANCE[chain.compute], f"{chain} rows {rows}: {error}"
        check_plain(chain, slots, weights.dequantized(), weights.bias)
        assert torch.equal(torch.from_numpy(y).nan_to_num(), slots[2]["y"].nan_to_num())
        if library is None:
            integers.note(slots[0] | slots[1])


def check_plain(chain: Chain, slots: list[dict[str, torch.Tensor]], w: torch.Tensor, bias: torch.Tensor | None) -> None:
    """y against (q - zp) * scale times the dequantized weights, without any packing or step."""
    scale = slots[0]["scale"].double().unsqueeze(-1)
    x = slots[0]["x"].float()
    q = expected_codes(chain, x, slots[0])
    y = ((q.double() - slots[0]["zp"].double().unsqueeze(-1)) * scale) @ w.T
    y = y if bias is None else y + bias.double()
    assert worst_row_error(slots[2]["y"], y, floor=FLOOR[chain.compute]) <= TOLERANCE[chain.compute]


def expected_codes(chain: Chain, x: torch.Tensor, slots: dict[str, torch.Tensor]) -> torch.Tensor:
    """Codes [rows, K] from the formula itself, on the device's scale and zero point."""
    scale, zero_point = slots["scale"].unsqueeze(-1), slots["zp"].float().unsqueeze(-1)
    if chain.rounding == 0:
        codes = torch.round(x * (1.0 / scale)) + zero_point
    else:
        wide = torch.float64 if chain.rounding == 1 else torch.float32
        codes = torch.round(x.to(wide) * (1.0 / scale.to(wide)) + zero_point.to(wide)).float()
    return codes.clamp(-128, 127)


ROWS_AT_ONCE = [(1, 3, 18), (33, 5)]  # a GEMV's, and a tile's


def is_in_turn(chain: Chain) -> bool:
    """Every zero point, storage and dtype with one of the eight of weight bits, weight zero points and bias in turn."""
    (bits, dtypes), zeros = divmod(MATRIX.index(chain) // 4, 24), MATRIX.index(chain) % 4
    return bits * 4 + zeros == dtypes % 8


def rows_for(chain: Chain, *, largest: float) -> tuple[Chain, torch.Tensor]:
    """The chain with its dtype's eps, and rows. largest: an element of f16 rows, so that outputs stay inside."""
    if chain.compute == "f32":
        return chain, quantization_rows(chain.k)
    x = quantization_rows(chain.k, dtype=torch.float16)
    chain = dataclasses.replace(chain, eps=float(torch.finfo(torch.float16).smallest_normal))
    return chain, x[x.abs().amax(-1) < largest]


@pytest.mark.parametrize(
    ("chain", "disabled", "rows_at_once"),
    by_day(
        itertools.product(MATRIX, TIERS, ROWS_AT_ONCE),
        lambda chain, disabled, rows: (
            is_in_turn(chain) and (MATRIX.index(chain) // 8 + TIERS.index(disabled) + ROWS_AT_ONCE.index(rows)) % 2 == 0
        ),
    ),
    ids=str,
)
def test_every_variant(
    chain: Chain, disabled: str, rows_at_once: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    chain, x = rows_for(chain, largest=1e3)
    check(chain, x[: 22 if rows_at_once[0] == 1 else None], rows_at_once=rows_at_once)


def is_quick(chain: Chain) -> bool:
    """Two zero points, 4-bit weights with them in buffers and 8-bit ones with them in images, and two shapes."""
    is_one_of_two = (chain.zp, chain.compute) in (("i8", "f32"), ("f32", "f16")) and chain.k in (96, 40, 768)
    return is_one_of_two and (chain.bits == 4) == (chain.storage == "buffer")


@pytest.mark.parametrize("chain", by_day(zip(TERMS), is_quick), ids=str)
@pytest.mark.parametrize("disabled", TIERS, ids=["default", "dot", "nodot"])
def test_float_zero_terms(chain: Chain, disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights whose zero points are no integers."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    chain, x = rows_for(chain, largest=1e2)
    check(chain, x[:11], rows_at_once=(1, 9))


@pytest.mark.parametrize("chain", by_day(zip(WITHOUT_SUMS), lambda chain: chain.k in (96, 48)), ids=str)
@pytest.mark.parametrize("disabled", TIERS, ids=["default", "dot", "nodot"])
def test_sums_that_the_kernel_makes(chain: Chain, disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one row, nine and a few."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    chain, x = rows_for(chain, largest=1e3)
    check(chain, x[:15], rows_at_once=(1, 9, 5))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("disabled", TIERS, ids=["default", "dot", "nodot"])
def test_sums_change_no_bit(bits: int, disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given or made by the kernel."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    found = []
    codes = torch.randint(-128, 128, (5, 96), generator=torch.Generator().manual_seed(2), dtype=torch.int8)
    zero_points = torch.tensor([-128, 127, 3, -100, 0], dtype=torch.int8)
    for sums in (True, False):
        chain = Chain(k=96, n=37, group_size=32, bits=bits, sums=sums)
        b, layout = ProgramBuilder(), Layout.of(96, 32)
        rows = b.symbol("rows", 1, 8)
        q, y = b.tensor("q", "i8", [rows, 96]), b.tensor("y", "f32", [rows, 37])
        scale, zp = b.tensor("scale", "f32", [rows]), b.tensor("zp", "i8", [rows])
        for tensor in (q, scale, zp):
            b.input(tensor)
        constants = weight_constants(b, chain, random_weights(chain), layout)
        b.call("linear_dq8ca", {"q": q, "scale": scale, "zp": zp, **constants, "y": y}, {"step": layout.step})
        b.output(y)
        with LoadedProgram(*b.build()) as loaded:
            for part in (slice(0, 5), slice(2, 3)):
                inputs = [codes[part].numpy(), torch.ones(5)[part].numpy(), zero_points[part].numpy()]
                found.append(loaded.execute(inputs)[0].tobytes())
    assert found[:2] == found[2:]


@pytest.mark.parametrize(
    "chain", by_day(zip(SHAPES), lambda chain: SHAPES.index(chain) % 2 == (chain.bits == 8)), ids=str
)
@pytest.mark.parametrize("disabled", TIERS[:2], ids=["default", "dot"])
def test_shapes(chain: Chain, disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    check(chain, quantization_rows(chain.k)[:25], rows_at_once=(1, 8, 9, 2, 7))


@pytest.mark.parametrize("chain", FORMULAS, ids=str)
def test_formulas(chain: Chain) -> None:
    check(chain, quantization_rows(chain.k), rows_at_once=(33, 5))


@pytest.mark.parametrize("rows", range(1, 18))
def test_every_row_count(rows: int) -> None:
    chain = Chain(k=64, n=70, group_size=16, asymmetric=True)
    check(chain, quantization_rows(chain.k, seed=rows)[:rows], rows_at_once=(rows,))


@pytest.mark.parametrize("storage", STORAGES)
def test_non_finite_rows(storage: str) -> None:
    """Rows torch turns into NaN are NaN, and the row after them is untouched."""
    chain = Chain(k=64, n=5, group_size=32, storage=storage)
    weights = random_weights(chain)
    loaded = LoadedProgram(*build(chain, weights))
    (y,) = loaded.execute([non_finite_rows(chain.k).numpy()])
    assert torch.isnan(torch.from_numpy(y)).all(-1).tolist() == [True, True, True, False]


def test_many_rows_fold_into_the_grid() -> None:
    """More rows than one dispatch dimension may hold on a minimal device (65,535)."""
    chain = Chain(k=8, n=2, group_size=8, storage="image", max_rows=70_001)
    weights = random_weights(chain)
    program, constants = build(chain, weights)
    x = torch.randn(70_001, 8, generator=torch.Generator().manual_seed(3))
    loaded = LoadedProgram(program, constants, keep_all=True)
    loaded.execute([x.numpy()])
    slots = read_back(loaded, program, 0, len(x))
    for slot, wanted in expected(program, 0, slots, {"scale", "zp"}).items():
        assert torch.equal(slots[slot], wanted)
    slots = read_back(loaded, program, 2, len(x))
    assert worst_row_error(slots["y"], expected(program, 2, slots, {"y"})["y"], floor=FLOOR["f32"]) <= TOLERANCE["f32"]

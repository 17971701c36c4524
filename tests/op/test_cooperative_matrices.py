"""linear_dq8ca on cooperative matrices: the index math, emulated on any device; the product where a device has it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from tests.op.by_day import by_day
from tests.op.calls import EMULATED_MATRICES, MATRICES, SHADERS, fitting_views, library_of, takes_matrices
from tests.op.chain import Chain, build, expected, random_weights, read_back, weight_constants, worst_row_error
from tests.op.rows import non_finite_rows, quantization_rows
from tests.op.test_quantized_linear import tier
from zeropoint.lowering.packing import Layout
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.player import LoadedProgram

GUARD = f"device.{MATRICES} and device.subgroup_size == 32 and 2 * rows(q) > TILE_M and "
ENOUGH_TILES = re.compile(r" and \(?ceil_div\(rows\(q\), TILE_M\)[^\"]*")
# The larger tiles need more shared memory than software devices have: the same code on a smaller one.
SMALLER = {
    "TILE_M = 128, TILE_N = 128, GRID_M = 2, GRID_N = 4": "TILE_M = 64, TILE_N = 64, GRID_M = 2, GRID_N = 2",
    "TILE_M = 64, TILE_N = 128, GRID_M = 1, GRID_N = 4": "TILE_M = 64, TILE_N = 64, GRID_M = 1, GRID_N = 2",
    "GRID_M = 1, GRID_N = 1, SLICES = 4": "GRID_M = 1, GRID_N = 1, SLICES = 2",
}
TOLERANCE = {"f32": 5e-7, "f16": 4e-4}
ROWS = 70


@dataclass(frozen=True)
class Case:
    algorithm: str
    chain: Chain

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.chain}"


def case(algorithm: str, k: int, n: int, group_size: int, **options: object) -> Case:
    return Case(algorithm, Chain(k=k, n=n, group_size=group_size, max_rows=ROWS, **options))  # type: ignore[arg-type]


CASES = [
    case("coopmat_large", 128, 37, 32, zp="i8", bias=True),
    case("coopmat_large", 192, 130, 32, zp="f32", bits=8),
    case("coopmat_large", 192, 65, 96, zp="i8", compute="f16", w_scale="f16"),
    case("coopmat_medium", 256, 130, 64, zp="f32", bias=True),
    case("coopmat_medium", 128, 20, 128, zp="i8", bits=8, compute="f16"),
    case("coopmat_tiny", 256, 130, 64, zp="i8", bias=True, sums=False),
    case("coopmat_tiny", 128, 20, 128, zp="f32", bits=8),
    case("coopmat_wide", 256, 150, 32, zp="i8", bias=True, sums=False),
    case("coopmat_wide", 384, 70, 128, zp="i8", compute="f16", w_scale="f16", sums=False),
    case("coopmat_small", 128, 20, 128, zp="f32", bits=8),
    case("coopmat_small", 256, 70, 32, zp="i32", storage="image", bias=True),
    case("coopmat_small", 384, 64, 128, zp="f32", bits=8, compute="f16", w_scale="f16"),
    case("coopmat_small", 128, 5, 32, zp="f16", storage="image"),
    case("coopmat_small", 128, 20, 32, zp="i8", sums=False),
    case("coopmat_large", 64, 37, 32, zp="i8", bits=8, compute="f16", sums=False),
]


def narrowed(manifest: str, chain: Chain) -> str:
    """A manifest of the one variant that the chain needs."""
    choices = {"zp": chain.zp, "w_scale": chain.w_scale, "w": f"i{chain.bits}"}
    choices |= dict.fromkeys(("x", "y", "residual"), chain.compute)
    choices["w_zp"] = "i32"  # which no chain binds; f32 is in no variant with f16 scales
    for slot, dtype in choices.items():
        manifest = re.sub(rf"^({slot} = .*dtype = )\[.*?\]", rf'\1["{dtype}"]', manifest, flags=re.M)
    if chain.sums:
        manifest = re.sub(r"^(w_sum = .*), optional = true", r"\1", manifest, flags=re.M)
        manifest = re.sub(r"^  \"dtype\(residual\).*\n", "", manifest, flags=re.M)  # it would be in no variant
    manifest = re.sub(r"^((?:zp|scale) = .*storage = )\[.*?\]", rf'\1["{chain.storage}"]', manifest, flags=re.M)
    return fitting_views(manifest)


@cache
def emulated(wanted: Case) -> bytes:
    """A kernel library whose linear has the one algorithm, for any device."""
    manifests = {
        kernel: narrowed((SHADERS / f"{kernel}.toml").read_text(), wanted.chain)
        for kernel in ("choose_qparams_per_row", "quantize_and_pack", "linear_dq8ca")
    }
    head, *algorithms = manifests["linear_dq8ca"].split("[[algorithm]]")
    (chosen,) = (text for text in algorithms if f'name = "{wanted.algorithm}"' in text)
    assert GUARD in chosen
    chosen = ENOUGH_TILES.sub("", chosen.replace(GUARD, ""))
    for large, smaller in SMALLER.items():
        chosen = chosen.replace(large, smaller)
    chosen = chosen.replace("unroll = true\n", "")
    own = [key for key in ("grid", "spec", "push", "iterations") if f"\n{key} = " in chosen]
    head = re.sub(rf"^(?:{'|'.join(own)}) = .*\n", "", head, flags=re.M)  # defaults that nothing takes
    return library_of(manifests | {"linear_dq8ca": f"{head}[[algorithm]]{chosen}"}, EMULATED_MATRICES)


def check(chain: Chain, x: torch.Tensor, library: bytes | None) -> str:
    """The linear against its reference; returns the algorithm that was picked."""
    program, constants = build(chain, random_weights(chain))
    x = x.to(torch.float16 if chain.compute == "f16" else torch.float32)
    with LoadedProgram(program, constants, keep_all=True, library=library) as loaded:
        loaded.execute([x.numpy()])
        slots = read_back(loaded, program, 2, len(x))
        algorithm = loaded.picks()[2].algorithm
    wanted = expected(program, 2, slots, {"y"})["y"]
    assert torch.equal(torch.isnan(slots["y"]), torch.isnan(wanted))
    error = worst_row_error(slots["y"].nan_to_num(), wanted.nan_to_num(), floor=1e-3)
    assert error <= TOLERANCE[chain.compute], f"{algorithm} {chain}: {error}"
    return algorithm


def rows_of(chain: Chain) -> torch.Tensor:
    rows = torch.cat([quantization_rows(chain.k), non_finite_rows(chain.k)])
    if chain.compute == "f16":
        rows = rows[rows.abs().amax(-1) < 1e3]  # outputs stay inside f16
    return torch.cat([rows] * 4)[:ROWS]


# A software device takes long to compile these: one of each tile is fast enough.
@pytest.mark.parametrize(
    "wanted",
    [pytest.param(wanted, marks=[] if wanted.chain.bias else [pytest.mark.slow]) for wanted in CASES],
    ids=str,
)
def test_emulated(wanted: Case) -> None:
    """Every tile of every algorithm: rows and columns beyond its edge, steps, zero points, their storages."""
    assert check(wanted.chain, rows_of(wanted.chain), emulated(wanted)) == wanted.algorithm


@pytest.mark.parametrize(("w_scale", "sums"), [("f32", True), ("f16", False)])
def test_picked_only_where_the_device_reports_the_product(
    w_scale: str, sums: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced off by the fact's name; never taken on a device without it."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    chain = Chain(k=256, n=130, group_size=32, max_rows=ROWS, w_scale=w_scale, sums=sums)
    assert check(chain, rows_of(chain), None) == ("coopmat_tiny" if takes_matrices() else tier(chain, ROWS))
    monkeypatch.setenv("ZEROPOINT_DISABLE", f"is_cpu,{MATRICES}")
    assert check(chain, rows_of(chain), None) == tier(chain, ROWS)


@pytest.mark.parametrize(
    ("rows", "k", "n", "algorithm"),
    [
        (ROWS, 192, 15000, "coopmat_large"),
        (ROWS, 192, 20000, "coopmat_medium"),  # the largest would leave half of a second round idle
        (ROWS, 320, 6200, "coopmat_medium"),
        (ROWS, 128, 4000, "coopmat_small"),
        (ROWS, 256, 1000, "coopmat_tiny"),
        (ROWS, 192, 1000, "coopmat_medium"),  # three pairs of chunks
        (40, 192, 12300, "coopmat_medium"),
        (40, 128, 6200, "coopmat_small"),
        (ROWS, 256, 6200, "coopmat_wide"),
        (40, 128, 12300, "coopmat_wide"),
        (ROWS, 128, 8500, "coopmat_medium"),  # more than one round of the wide ones
    ],
)
@pytest.mark.parametrize("sums", [True, False])
def test_large_tiles(rows: int, k: int, n: int, algorithm: str, sums: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough outputs for the larger tiles, and rows for half of one."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")
    chain = Chain(k=k, n=n, group_size=32, max_rows=ROWS, bias=True, sums=sums)
    if sums and algorithm == "coopmat_wide":  # which is for the weights of newer Programs alone
        algorithm = "coopmat_medium"
    assert check(chain, rows_of(chain)[:rows], None) == (algorithm if takes_matrices() else tier(chain, rows))


def test_zero_points_outside_int8() -> None:
    """A zero point that a graph was given: any int32. What the clamped one leaves out is added at the end."""
    wanted = case("coopmat_small", 128, 20, 32, zp="i32")
    chain = wanted.chain
    b = ProgramBuilder()
    q = b.tensor("q", "i8", [40, chain.k])
    scale, zp = b.tensor("scale", "f32", [40]), b.tensor("zp", "i32", [40])
    y = b.tensor("y", "f32", [40, chain.n])
    weights = random_weights(chain)
    constants = weight_constants(b, chain, weights, Layout.of(chain.k, chain.group_size))
    slots = {"q": q, "scale": scale, "zp": zp, **constants, "group_sums": None, "y": y}
    b.call("linear_dq8ca", slots, {"step": 32})
    for tensor in (q, scale, zp):
        b.input(tensor)
    b.output(y)
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(-128, 128, (40, chain.k), generator=generator, dtype=torch.int8)
    zeros = torch.tensor([300, -5000, 129, -129, 128, -128, 127, 0] * 5, dtype=torch.int32)
    with LoadedProgram(*b.build(), library=emulated(wanted)) as loaded:
        (found,) = loaded.execute([codes.numpy(), torch.full((40,), 0.01).numpy(), zeros.numpy()])
    exact = 0.01 * (codes.double() - zeros.double().unsqueeze(-1)) @ weights.dequantized().T
    assert worst_row_error(torch.from_numpy(found), exact, floor=1e-3) <= TOLERANCE["f32"]


@pytest.mark.parametrize(
    "wanted",
    by_day(zip((CASES[5], CASES[7], CASES[-2])), lambda wanted: wanted.algorithm == "coopmat_small"),
    ids=str,
)
def test_a_residual(wanted: Case) -> None:
    """What is added to each output, rows and columns beyond a tile's edge among them."""
    chain = dataclasses.replace(wanted.chain, bias=False)
    b = ProgramBuilder()
    q, residual = b.tensor("q", "i8", [ROWS, chain.k]), b.tensor("residual", "f32", [ROWS, chain.n])
    scale, zp = b.tensor("scale", "f32", [ROWS]), b.tensor("zp", "i8", [ROWS])
    y = b.tensor("y", "f32", [ROWS, chain.n])
    weights = random_weights(chain)
    constants = weight_constants(b, chain, weights, Layout.of(chain.k, chain.group_size))
    slots = {"q": q, "scale": scale, "zp": zp, **constants, "group_sums": None, "residual": residual, "y": y}
    b.call("linear_dq8ca", slots, {"step": Layout.of(chain.k, chain.group_size).step})
    for tensor in (q, scale, zp, residual):
        b.input(tensor)
    b.output(y)
    generator = torch.Generator().manual_seed(4)
    codes, zeros = (
        torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in ((ROWS, chain.k), (ROWS,))
    )
    more = torch.randn(ROWS, chain.n, generator=generator)
    with LoadedProgram(*b.build(), library=emulated(Case(wanted.algorithm, chain))) as loaded:
        (found,) = loaded.execute([codes.numpy(), torch.full((ROWS,), 0.01).numpy(), zeros.numpy(), more.numpy()])
        assert loaded.picks()[0].algorithm == wanted.algorithm
    exact = 0.01 * (codes.double() - zeros.double().unsqueeze(-1)) @ weights.dequantized().T + more
    assert worst_row_error(torch.from_numpy(found), exact, floor=1e-3) <= TOLERANCE["f32"]

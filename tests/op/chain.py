"""The 8da4w chain (choose_qparams_per_row, quantize_and_pack, linear) as one hand-built Program, and its checks.

Every tensor of the run is read back, so each call is compared with its reference on the device's own inputs, and the
result with the unpacked weights in f64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tests.op.tolerance import check_table
from zeropoint.kernels.dtypes import DType
from zeropoint.lowering.packing import Layout, pack_scales, pack_sums, pack_terms, pack_weight, pack_zeros
from zeropoint.program import Dim, Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.references import OutputSpec, find_reference
from zeropoint.runtime.player import LoadedProgram

TORCH_DTYPES = {
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.I32: torch.int32,
    DType.I8: torch.int8,
}


@dataclass(frozen=True, slots=True)
class Chain:
    """One case. mapping, rounding: section 4 of docs/design.md. zp, storage, compute: dtype, storage, dtype names.

    sums: whether w_sum is given.
    """

    k: int
    n: int
    group_size: int
    bits: int = 4
    zp: str = "i8"
    storage: str = "buffer"
    compute: str = "f32"
    w_scale: str = "f32"
    asymmetric: bool = False
    terms: bool = False
    bias: bool = False
    sums: bool = True
    mapping: int = 0
    rounding: int = 0
    eps: float = float(torch.finfo(torch.float32).smallest_normal)
    max_rows: int = 64

    def __str__(self) -> str:
        zeros = "term" if self.terms else "asym" if self.asymmetric else "sym" if self.sums else "nosum"
        return "-".join(
            [
                f"k{self.k}n{self.n}g{self.group_size}b{self.bits}",
                f"zp.{self.zp}.{self.storage}.{self.compute}.{self.w_scale}",
                f"{zeros}{'.bias' if self.bias else ''}.m{self.mapping}r{self.rounding}",
            ]
        )


@dataclass(frozen=True, slots=True)
class Weights:
    """codes [N, K] int8, scales and zeros [N, K / G], bias [N] or None."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bias: torch.Tensor | None

    def dequantized(self) -> torch.Tensor:
        """f64 [N, K]."""
        n, k = self.codes.shape
        groups = self.codes.double().reshape(n, self.scales.shape[1], -1)
        return ((groups - self.zeros.double().unsqueeze(-1)) * self.scales.double().unsqueeze(-1)).reshape(n, k)


def random_weights(chain: Chain, seed: int = 1) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    groups = chain.k // chain.group_size
    low, high = (-8, 8) if chain.bits == 4 else (-128, 128)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int8)

    scales = torch.rand(chain.n, groups, generator=generator) * 0.02 + 0.001
    if chain.w_scale == "f16":
        scales = scales.half().float()
    zeros = integers(chain.n, groups) if chain.asymmetric else torch.zeros(chain.n, groups, dtype=torch.int8)
    if chain.terms:
        zeros = torch.randn(chain.n, groups, generator=generator, dtype=torch.float64) * high
    bias = torch.randn(chain.n, generator=generator) if chain.bias else None
    return Weights(integers(chain.n, chain.k), scales, zeros, bias)


def build(chain: Chain, weights: Weights) -> tuple[Program, dict[str, bytes]]:
    """One Program over a symbolic number of rows: x [rows, K] -> y [rows, N]."""
    layout = Layout.of(chain.k, chain.group_size, padded=not chain.terms)
    b = ProgramBuilder()
    rows = b.symbol("rows", 1, chain.max_rows)
    x = b.tensor("x", chain.compute, [rows, chain.k])
    scale = b.tensor("scale", "f32", [rows], storage=chain.storage)
    zp = b.tensor("zp", chain.zp, [rows], storage=chain.storage)
    q = b.tensor("q", "i8", [rows, layout.packed_length])
    sums = b.tensor("group_sums", "i32", [rows, layout.steps]) if chain.asymmetric or chain.terms else None
    y = b.tensor("y", chain.compute, [rows, chain.n])
    limits = {"qmin": -128, "qmax": 127}
    b.input(x)
    b.call(
        "choose_qparams_per_row",
        {"x": x, "scale": scale, "zp": zp},
        {"mapping": chain.mapping, **limits, "eps": chain.eps},
    )
    packing = {"group_size": layout.group_size, "group_padded": layout.group_padded, "step": layout.step}
    b.call(
        "quantize_and_pack",
        {"x": x, "scale": scale, "zp": zp, "q": q, "group_sums": sums},
        {"rounding": chain.rounding, **limits, **packing},
    )
    constants = weight_constants(b, chain, weights, layout)
    b.call(
        "linear_dq8ca",
        {"q": q, "scale": scale, "zp": zp, **constants, "group_sums": sums, "y": y},
        {"step": layout.step},
    )
    b.output(y)
    return b.build()


def weight_constants(b: ProgramBuilder, chain: Chain, weights: Weights, layout: Layout) -> dict[str, int | None]:
    """Declares w, w_scale, w_sum, w_zp and bias, packed as the export packs them."""
    codes = weights.codes.numpy()
    zeros = weights.zeros.numpy()
    chunk = 128 // chain.bits
    steps = [layout.steps, chain.n]
    integers = np.zeros_like(zeros, np.int32) if chain.terms else zeros
    w_sum, w_zp = pack_sums(codes, integers, layout), pack_zeros(integers, layout)
    terms = pack_terms((weights.scales.double() * weights.zeros).float().numpy(), layout) if chain.terms else w_zp
    w = pack_weight(codes, layout, bits=chain.bits)
    scales = pack_scales(weights.scales.numpy(), layout).astype(np.float16 if chain.w_scale == "f16" else np.float32)
    return {
        "w": b.constant("w", f"i{chain.bits}", [layout.packed_length // chunk, chain.n, chunk], data=w),
        "w_scale": b.constant("w_scale", chain.w_scale, steps, data=scales),
        "w_sum": b.constant("w_sum", "i32", steps, data=w_sum) if chain.sums else None,
        "w_zp": b.constant("w_zp", "f32" if chain.terms else "i32", steps, data=terms)
        if chain.asymmetric or chain.terms
        else None,
        "bias": b.constant("bias", "f32", [chain.n], data=weights.bias.numpy()) if weights.bias is not None else None,
    }


def read_back(loaded: LoadedProgram, program: Program, call: int, rows: int) -> dict[str, torch.Tensor]:
    """What the slots of a call hold after a run with this many rows."""
    slots = {}
    for arg in program.calls[call].args:
        tensor = program.tensors[arg.tensor]
        shape = tuple(dim.value((rows,)) for dim in tensor.dims)
        slots[arg.slot] = torch.from_numpy(loaded.read_tensor(arg.tensor)).reshape(
            shape if tensor.dtype is not DType.I4 else (*shape[:-1], shape[-1] // 2)
        )
    return slots


def expected(program: Program, call: int, slots: dict[str, torch.Tensor], outputs: set[str]) -> dict[str, torch.Tensor]:
    """The reference's outputs for a call, from the inputs that the device used; the device's are as `verify` wants."""
    found = program.calls[call]
    specs = {slot: OutputSpec(tuple(slots[slot].shape), slots[slot].dtype) for slot in outputs}
    inputs = {slot: value for slot, value in slots.items() if slot not in outputs}
    attrs = {attr.name: attr.value for attr in found.attrs if not isinstance(attr.value, Dim)}
    wanted = find_reference(found.kernel)(inputs, attrs, specs)
    check_table(found.kernel, slots, attrs, wanted, slots)
    return wanted


def worst_row_error(actual: torch.Tensor, wanted: torch.Tensor, *, floor: float) -> float:
    """Largest over the rows of |actual - wanted| / max(|wanted|, floor), norms over a row in f64."""
    difference = (actual.double() - wanted.double()).norm(dim=-1)
    return float((difference / wanted.double().norm(dim=-1).clamp(min=floor)).max())

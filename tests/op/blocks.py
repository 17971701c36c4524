"""A row's way through one layer's calls: a prologue, quantization, a linear, and what follows it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tests.op.chain import Chain, random_weights, weight_constants
from zeropoint.fusion import fuse
from zeropoint.kernels._generated.signatures import BinaryOp, GateOp
from zeropoint.lowering.options import CompileOptions
from zeropoint.lowering.packing import Layout
from zeropoint.program import Dim, Program
from zeropoint.program.builder import ProgramBuilder

TORCH = {"f32": torch.float32, "f16": torch.float16}
MAX_ROWS = 16


@dataclass(frozen=True, slots=True)
class Block:
    """prologue: plain, norm, bare_norm or gated. ending: none, residual or gated, which a second linear follows.

    gap: elements before what a norm reads of a row of x, or between the halves of a gated one.
    """

    chain: Chain
    prologue: str = "plain"
    ending: str = "none"
    op: GateOp = GateOp.SILU
    gap: int = 0

    def __str__(self) -> str:
        return f"{self.chain}-{self.prologue}-{self.ending}-{self.op.name.lower()}"

    def width(self) -> int:
        return self.gap + self.chain.k * (2 if self.prologue == "gated" else 1)

    def build(self, fusions: str) -> tuple[Program, dict[str, bytes]]:
        b, c = ProgramBuilder(), self.chain
        rows = b.symbol("rows", 1, MAX_ROWS)
        x = b.tensor("x", c.compute, [rows, self.width()])
        residual = b.tensor("residual", c.compute, [rows, c.n])
        b.input(x)
        h = self._prologue(b, x, rows)
        if self.ending == "gated":
            wide = self._linear(b, h, rows, replace(c, n=2 * c.n))
            gate = b.tensor("gate", c.compute, [rows, c.n])
            places = {"gate_offset": 0, "gate_row_stride": 2 * c.n, "up_offset": c.n, "up_row_stride": 2 * c.n}
            attrs = {"op": int(self.op), "row_length": c.n, **places}
            b.call("gated_activation", {"gate": wide, "up": wide, "y": gate}, attrs)
            y = self._linear(
                b, gate, rows, Chain(k=c.n, n=c.k, group_size=c.group_size, bits=c.bits, compute=c.compute)
            )
        else:
            y = self._linear(b, h, rows, c)
        if self.ending == "residual":
            b.input(residual)
            total = b.tensor("total", c.compute, [rows, c.n])
            dense = {f"{slot}_stride{axis}": int(axis == 3) for slot in "ab" for axis in range(4)}
            sizes = {"size0": 1, "size1": 1, "size2": 1, "size3": Dim(0, ((c.n, 0),))}
            attrs = {"op": int(BinaryOp.ADD), "alpha": 1.0, "a_offset": 0, "b_offset": 0, **sizes, **dense}
            b.call("elementwise_binary", {"a": residual, "b": y, "y": total}, attrs)
            y = total
        b.output(y)
        fuse(b, CompileOptions(fusions=fusions))
        return b.build(drop_unused=True)

    def _prologue(self, b: ProgramBuilder, x: int, rows: Dim) -> int:
        c, k = self.chain, self.chain.k
        if self.prologue == "plain":
            return x
        h = b.tensor("h", c.compute, [rows, k])
        if self.prologue == "gated":
            gate = {"gate_offset": 0, "gate_row_stride": self.width()}
            places = {**gate, "up_offset": k + self.gap, "up_row_stride": self.width()}
            b.call("gated_activation", {"gate": x, "up": x, "y": h}, {"op": int(self.op), "row_length": k, **places})
            return h
        values = torch.linspace(-1.0, 2.0, k).to(TORCH[c.compute]).numpy()
        weight = None if self.prologue == "bare_norm" else b.constant("weight", c.compute, [k], data=values)
        places = {"x_offset": self.gap, "x_inner_rows": 1, "x_outer_stride": self.width(), "x_inner_stride": 0}
        attrs = {"eps": 1e-6, "weight_offset": 1.0, "row_length": k, **places}
        b.call("rms_norm", {"x": x, "weight": weight, "y": h}, attrs)
        return h

    def _linear(self, b: ProgramBuilder, x: int, rows: Dim, c: Chain) -> int:
        layout = Layout.of(c.k, c.group_size, padded=not c.terms)
        scale = b.tensor("scale", "f32", [rows], storage=c.storage)
        zp = b.tensor("zp", c.zp, [rows], storage=c.storage)
        q = b.tensor("q", "i8", [rows, layout.packed_length])
        sums = b.tensor("group_sums", "i32", [rows, layout.steps]) if c.asymmetric or c.terms else None
        limits = {"qmin": -128, "qmax": 127}
        chosen = {"x": x, "scale": scale, "zp": zp}
        attrs = {"mapping": c.mapping, **limits, "eps": c.eps}
        b.call("choose_qparams_per_row", chosen, attrs)
        packing = {"group_size": layout.group_size, "group_padded": layout.group_padded, "step": layout.step}
        attrs = {"rounding": c.rounding, **limits, **packing}
        b.call("quantize_and_pack", {**chosen, "q": q, "group_sums": sums}, attrs)
        y = b.tensor("y", c.compute, [rows, c.n])
        args = {"q": q, "scale": scale, "zp": zp, **weight_constants(b, c, random_weights(c), layout)}
        b.call("linear_dq8ca", {**args, "group_sums": sums, "y": y}, {"step": layout.step})
        return y

    def inputs(self, rows: int) -> list[torch.Tensor]:
        dtype = TORCH[self.chain.compute]
        given = [torch.randn(rows, self.width()).to(dtype)]
        return [*given, torch.randn(rows, self.chain.n).to(dtype)] if self.ending == "residual" else given

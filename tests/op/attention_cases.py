"""Cases of the attention kernels: their tensors and attributes, and what torch itself gives for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

Inputs = dict[str, torch.Tensor]
Noise = Callable[..., torch.Tensor]
ATTRS_OF_ATTENTION_ONLY = ("y_layout", "nan_rows")


@dataclass(frozen=True, slots=True)
class Case:
    """mask: "" none, "u8", "add" (both with hidden keys), with mask_dims telling which of B, H, S are not broadcast."""

    queries: int = 5
    keys: int = 77
    start: int | tuple[int, ...] = 40
    heads: int = 3
    kv_heads: int = 1
    head_dim: int = 64
    batch: int = 1
    dtype: torch.dtype = torch.float32
    cache: str = "same"
    mask: str = ""
    mask_dims: str = "S"
    causal: bool = True
    window: int = 0
    filled: bool = False
    scale: float = 0.0
    soft_cap: float = 0.0
    layouts: tuple[int, int, int] = (0, 0, 0)
    merged: bool = False
    nan_rows: bool = False

    def __str__(self) -> str:
        shown = [(f.name, getattr(self, f.name)) for f in fields(self)]
        defaults = {f.name: f.default for f in fields(self)}
        return "-".join(f"{name}.{value}" for name, value in shown if value != defaults[name]) or "default"

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def y_shape(self) -> tuple[int, ...]:
        middle = (self.heads, self.queries) if self.layouts[2] == 0 else (self.queries, self.heads)
        return (self.batch, *middle, self.head_dim)

    def attrs(self) -> dict[str, int | float]:
        """Of `attention`; the kernels of decoding take some of them."""
        q_layout, kv_layout, y_layout = self.layouts
        kv_first = self.heads * self.head_dim if self.merged else 0
        return {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "q_layout": q_layout,
            "kv_layout": kv_layout,
            "q_first": 0,
            "k_first": kv_first,
            "v_first": kv_first + self.kv_heads * self.head_dim if self.merged else 0,
            "masked": int(self.mask != ""),
            "causal": int(self.causal),
            "window": self.window,
            "filled": int(self.filled),
            "position_per_batch": int(isinstance(self.start, tuple)),
            "scale": self.scale or self.head_dim**-0.5,
            "soft_cap": self.soft_cap,
            "y_layout": y_layout,
            "nan_rows": int(self.nan_rows),
        }

    def partial_attrs(self) -> dict[str, int | float]:
        return {name: value for name, value in self.attrs().items() if name not in ATTRS_OF_ATTENTION_ONLY}

    def reduce_attrs(self) -> dict[str, int | float]:
        return {name: self.attrs()[name] for name in ("heads", "kv_heads", *ATTRS_OF_ATTENTION_ONLY)}

    def inputs(self, seed: int = 0) -> Inputs:
        """The input slots, as random as attention over a trained model's keys: scores of spread 1."""
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        slots: Inputs = {}
        if self.merged:
            row = (self.heads + 2 * self.kv_heads) * self.head_dim
            slots["q"] = slots["k"] = slots["v"] = noise(self.batch, self.queries, row).to(self.dtype)
        else:
            slots["q"] = noise(*self._shape(self.layouts[0], self.heads, self.queries)).to(self.dtype)
            for slot in ("k", "v"):
                shape = self._shape(self.layouts[1], self.kv_heads, self.keys)
                slots[slot] = noise(*shape).to(self.dtype)
                if self.cache == "i8":
                    slots[slot] = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
                    slots[f"{slot}_scale"] = 0.002 + 0.02 * torch.rand(shape[:-1], generator=generator)
        slots["mask"] = self._mask(noise)
        start = self.start if isinstance(self.start, tuple) else (self.start,)
        slots["position"] = torch.tensor(start, dtype=torch.int32)
        return slots

    def _shape(self, layout: int, heads: int, tokens: int) -> tuple[int, ...]:
        return (self.batch, *((heads, tokens) if layout == 0 else (tokens, heads)), self.head_dim)

    def _mask(self, noise: Noise) -> torch.Tensor:
        if not self.mask:
            return torch.ones(1, 1, 1, 1, dtype=torch.uint8)
        sizes = {"B": self.batch, "H": self.heads, "S": self.queries}
        shape = (*(size if name in self.mask_dims else 1 for name, size in sizes.items()), self.keys)
        hidden = noise(*shape) < -0.5
        if self.mask == "u8":
            return (~hidden).to(torch.uint8)
        return noise(*shape).masked_fill(hidden, -torch.inf).to(self.dtype)


def torch_attention(case: Case, inputs: Inputs) -> torch.Tensor:
    """y by torch's own scaled_dot_product_attention in f64, from a mask that spells out every rule; no soft cap."""
    q, k, v = (heads_of(case, inputs, slot).double() for slot in ("q", "k", "v"))
    y = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=spelled_mask(case, inputs), scale=case.attrs()["scale"], enable_gqa=True
    )
    return y if case.layouts[2] == 0 else y.transpose(1, 2)


def heads_of(case: Case, inputs: Inputs, slot: str) -> torch.Tensor:
    """[B, H, tokens, D] of a slot, dequantized."""
    layout = case.layouts[0 if slot == "q" else 1]
    heads = case.heads if slot == "q" else case.kv_heads
    x = inputs[slot].float()
    if f"{slot}_scale" in inputs:
        x = x.double() * inputs[f"{slot}_scale"].double().unsqueeze(-1)
    if case.merged:
        first = int(case.attrs()[f"{slot}_first"])
        x = x[..., first : first + heads * case.head_dim].unflatten(-1, (heads, case.head_dim))
    return x if layout == 0 else x.transpose(1, 2)


def spelled_mask(case: Case, inputs: Inputs) -> torch.Tensor:
    """Additive f64 [B, H, S, T]."""
    mask = torch.zeros(case.batch, case.heads, case.queries, case.keys, dtype=torch.float64)
    for b in range(case.batch):
        start = case.start[b] if isinstance(case.start, tuple) else case.start
        for s in range(case.queries):
            first = max(0, start + s - case.window + 1) if case.window else 0
            last = start + s + 1 if case.causal else start + case.queries if case.filled else case.keys
            mask[b, :, s, :first] = -torch.inf
            mask[b, :, s, last:] = -torch.inf
    if case.mask == "u8":
        mask = mask.masked_fill(inputs["mask"] == 0, -torch.inf)
    elif case.mask:
        mask = mask + inputs["mask"].double()
    return mask

"""Cases of rotary_attention: one new token a sequence, its tensors and attributes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from zeropoint.references import OutputSpec

Tensors = dict[str, torch.Tensor]
Attrs = dict[str, int | float]
ROTATION = ("q", "k", "v", "q_norm", "k_norm", "cos_table", "sin_table", "position", "k_cache", "v_cache")
_OF_ROTATION = ("q_layout", "kv_layout", "q_first", "k_first", "v_first", "cache_layout", "normed", "rotary_dim")
_OF_ROTATION = (*_OF_ROTATION, "interleaved", "table_rows", "position_mode", "eps", "heads", "kv_heads", "head_dim")
_OF_ATTENTION = ("heads", "kv_heads", "head_dim", "masked", "causal", "window", "filled", "position_per_batch", "scale")
_OF_ATTENTION = (*_OF_ATTENTION, "soft_cap", "y_layout", "nan_rows")


@dataclass(frozen=True, slots=True)
class Case:
    """mask: "" none, "u8", "add" (both with hidden keys), with mask_dims telling which of B and H are not broadcast.
    blind_head sees no key. splits: workgroups that may share a KV head's keys; 0 without the slots they need.

    position_per_batch goes with the mode: attention sees the position that the caches are written at.
    """

    places: tuple[int, ...] = (40,)
    keys: int = 77
    heads: int = 3
    kv_heads: int = 1
    head_dim: int = 64
    dtype: torch.dtype = torch.float32
    table: torch.dtype = torch.float32
    merged: bool = True
    normed: bool = False
    interleaved: bool = False
    rotary_dim: int = 0
    half_table: bool = False
    table_rows: int = 0
    position_mode: int = 0
    cache_layout: int = 0
    y_layout: int = 1
    mask: str = ""
    mask_dims: str = ""
    causal: bool = True
    window: int = 0
    filled: bool = False
    scale: float = 0.0
    soft_cap: float = 0.0
    nan_rows: bool = False
    batch: int = 1
    blind_head: int = -1
    splits: int = 0

    def __str__(self) -> str:
        changed = [f"{f.name}.{getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default]
        return "-".join(changed).replace(" ", "") or "default"

    @property
    def cache_shape(self) -> tuple[int, ...]:
        middle = (self.kv_heads, self.keys) if self.cache_layout == 0 else (self.keys, self.kv_heads)
        return (self.batch, *middle, self.head_dim)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, *((self.heads, 1) if self.y_layout == 0 else (1, self.heads)), self.head_dim)

    def attrs(self) -> Attrs:
        first = self.heads * self.head_dim if self.merged else 0
        return {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "q_layout": int(self.merged),
            "kv_layout": int(self.merged),
            "q_first": 0,
            "k_first": first,
            "v_first": first + self.kv_heads * self.head_dim if self.merged else 0,
            "cache_layout": self.cache_layout,
            "y_layout": self.y_layout,
            "normed": int(self.normed),
            "rotary_dim": self.rotary_dim or self.head_dim,
            "interleaved": int(self.interleaved),
            "table_rows": self.table_rows,
            "position_mode": self.position_mode,
            "eps": 1e-6,
            "masked": int(self.mask != ""),
            "causal": int(self.causal),
            "window": self.window,
            "filled": int(self.filled),
            "position_per_batch": self.position_mode // 2,
            "scale": self.scale or self.head_dim**-0.5,
            "soft_cap": self.soft_cap,
            "nan_rows": int(self.nan_rows),
        }

    def rotation_attrs(self) -> Attrs:
        """Of rotary_update_cache, with its queries as a merged projection has them."""
        return {name: self.attrs()[name] for name in _OF_ROTATION} | {"out_layout": 1}

    def attention_attrs(self) -> Attrs:
        """Of attention over the caches."""
        own = {"q_layout": 1, "kv_layout": self.cache_layout, "q_first": 0, "k_first": 0, "v_first": 0}
        return {name: self.attrs()[name] for name in _OF_ATTENTION} | own

    def outputs(self) -> dict[str, OutputSpec]:
        cache = OutputSpec(self.cache_shape, self.dtype)
        found = {"k_cache": cache, "v_cache": cache, "y": OutputSpec(self.y_shape, self.dtype)}
        return {**found, "arrived": OutputSpec((self.batch, self.kv_heads), torch.int32)} if self.splits else found

    def inputs(self, seed: int = 0) -> Tensors:
        """As random as attention over a trained model's keys. What the new token's rows held before must not count."""
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        if self.merged:
            row = noise(self.batch, 1, (self.heads + 2 * self.kv_heads) * self.head_dim).to(self.dtype)
            slots = {"q": row, "k": row, "v": row}
        else:
            slots = {"q": noise(self.batch, self.heads, 1, self.head_dim).to(self.dtype)}
            slots |= {slot: noise(self.batch, self.kv_heads, 1, self.head_dim).to(self.dtype) for slot in ("k", "v")}
        width = self.head_dim if self.normed else 1
        slots |= {"q_norm": 1 + 0.1 * noise(width), "k_norm": 1 + 0.1 * noise(width)}
        slots |= self._tables()
        slots["position"] = torch.tensor(self.places, dtype=torch.int32)
        slots["mask"] = self._mask(noise(self.batch, self.heads, 1, self.keys))
        for slot in ("k_cache", "v_cache"):
            cache = noise(self.batch, self.kv_heads, self.keys, self.head_dim)
            for b in range(self.batch):
                place = self.places[b if self.position_mode // 2 else 0]
                if 0 <= place < self.keys:
                    cache[b, :, place] = torch.nan
            slots[slot] = (cache if self.cache_layout == 0 else cache.transpose(1, 2)).to(self.dtype).contiguous()
        if self.splits:
            parts = (self.batch, self.kv_heads, self.splits, self.heads // self.kv_heads, self.head_dim + 4)
            slots["split_sums"] = torch.full(parts, torch.nan)
            slots["arrived"] = torch.zeros(self.batch, self.kv_heads, dtype=torch.int32)
        return slots

    def _tables(self) -> Tensors:
        width = (self.rotary_dim or self.head_dim) // (2 if self.half_table else 1)
        angles = torch.outer(torch.arange(self.keys).double(), 100.0 ** -(torch.arange(width) / width).double())
        return {"cos_table": angles.cos().to(self.table), "sin_table": angles.sin().to(self.table)}

    def _mask(self, noise: torch.Tensor) -> torch.Tensor:
        if not self.mask:
            return torch.ones(1, 1, 1, 1, dtype=torch.uint8)
        noise = noise[: self.batch if "B" in self.mask_dims else 1, : self.heads if "H" in self.mask_dims else 1]
        hidden = noise < -0.5
        if self.blind_head >= 0:
            hidden[:, self.blind_head] = True
        if self.mask == "u8":
            return (~hidden).to(torch.uint8)
        return noise.masked_fill(hidden, -torch.inf).to(self.dtype)

"""rotary_embedding, update_cache, update_cache_q8 and rotary_update_cache."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.op.calls import checked_call, expected_outputs, is_software, mutated_library, relative_rms, run_call
from zeropoint.references import OutputSpec

# Relative RMS. f32: a few roundings. f16: the rounding of the stored result.
TOLERANCE = {torch.float32: 2e-7, torch.float16: 4e-4}
DTYPES = [(torch.float32, torch.float32), (torch.float16, torch.float16), (torch.float16, torch.float32)]
MODES = (0, 1, 2, 3)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def heads_shape(layout: int, batch: int, heads: int, tokens: int, head_dim: int) -> tuple[int, ...]:
    return (batch, *((heads, tokens) if layout == 0 else (tokens, heads)), head_dim)


def positions(mode: int, batch: int, tokens: int) -> torch.Tensor:
    """A position tensor of a mode; places differ, and go down where they may."""
    places = torch.arange(batch * tokens).flip(0) * 3 % 17 + torch.arange(batch * tokens) // 17
    wanted = [places[:1] + 4, places[:tokens], places[:batch] + 1, places]
    return wanted[mode].to(torch.int32)


def tables(rows: int, width: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    angles = torch.outer(torch.arange(rows).double(), 100.0 ** -(torch.arange(width) / width).double())
    return {"cos_table": angles.cos().to(dtype), "sin_table": angles.sin().to(dtype)}


def rope_attrs(head_dim: int, rotary_dim: int, *, interleaved: int, table_rows: int, mode: int) -> dict[str, int]:
    return {
        "head_dim": head_dim,
        "rotary_dim": rotary_dim,
        "interleaved": interleaved,
        "table_rows": table_rows,
        "position_mode": mode,
    }


def check(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    assert torch.isfinite(actual).all()
    assert relative_rms(actual, wanted) <= TOLERANCE[actual.dtype]


@pytest.mark.parametrize(("dtype", "table"), DTYPES)
@pytest.mark.parametrize(
    ("interleaved", "head_dim", "rotary_dim", "full_table"),
    [
        (0, 64, 64, True),
        (0, 64, 64, False),
        (1, 64, 64, False),
        (1, 32, 32, True),
        (0, 80, 20, True),
        (1, 256, 128, False),
    ],
)
@pytest.mark.parametrize("layouts", [(0, 0), (1, 1), (1, 0)])
def test_rotary(
    dtype: torch.dtype,
    table: torch.dtype,
    interleaved: int,
    head_dim: int,
    rotary_dim: int,
    full_table: bool,
    layouts: tuple[int, int],
) -> None:
    x = noise(*heads_shape(layouts[0], 2, 3, 7, head_dim), dtype=dtype)
    inputs = {"x": x, **tables(31, rotary_dim // (1 if full_table else 2), table), "position": positions(0, 2, 7)}
    outputs = {"y": OutputSpec(heads_shape(layouts[1], 2, 3, 7, head_dim), dtype)}
    attrs = rope_attrs(head_dim, rotary_dim, interleaved=interleaved, table_rows=0, mode=0)
    attrs |= {"heads": 3, "x_layout": layouts[0], "x_first": 0, "y_layout": layouts[1]}
    actual, wanted = checked_call("rotary_embedding", inputs, outputs, attrs)
    check(actual["y"], wanted["y"])


@pytest.mark.parametrize(("mode", "table_rows"), list(itertools.product(MODES, (0, 1, 2))))
def test_rotary_positions(mode: int, table_rows: int) -> None:
    """Heads 1 to 3 of a wider row, as the queries of a merged projection lie."""
    batch, tokens, head_dim = 3, 5, 16
    x = noise(batch, tokens, 6 * head_dim)
    inputs = {"x": x, **tables(40, head_dim, torch.float32), "position": positions(mode, batch, tokens)}
    outputs = {"y": OutputSpec((batch, tokens, 3, head_dim), torch.float32)}
    attrs = rope_attrs(head_dim, head_dim, interleaved=0, table_rows=table_rows, mode=mode)
    attrs |= {"heads": 3, "x_layout": 1, "x_first": head_dim, "y_layout": 1}
    actual, wanted = checked_call("rotary_embedding", inputs, outputs, attrs)
    check(actual["y"], wanted["y"])


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_is_a_rotation(interleaved: int) -> None:
    """Against complex numbers, and not against our own reference."""
    x = noise(1, 1, 4, 8)
    angles = torch.rand(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * math.tau
    inputs = {
        "x": x,
        "cos_table": angles.cos().float(),
        "sin_table": angles.sin().float(),
        "position": positions(0, 1, 1) * 0,
    }
    outputs = {"y": OutputSpec((1, 1, 4, 8), torch.float32)}
    attrs = rope_attrs(8, 8, interleaved=interleaved, table_rows=0, mode=0)
    attrs |= {"heads": 1, "x_layout": 0, "x_first": 0, "y_layout": 0}
    actual, _ = run_call("rotary_embedding", inputs, outputs, attrs)
    pairs = x.unflatten(-1, (4, 2)) if interleaved else x.unflatten(-1, (2, 4)).transpose(-1, -2)
    turned = torch.view_as_real(torch.view_as_complex(pairs.double().contiguous()) * torch.exp(1j * angles))
    check(actual["y"], (turned if interleaved else turned.transpose(-1, -2)).flatten(-2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layouts", [(0, 0), (1, 1), (1, 0)])
def test_update_cache(dtype: torch.dtype, mode: int, layouts: tuple[int, int]) -> None:
    batch, heads, tokens, head_dim, keys = 2, 3, 5, 36, 23
    inputs = {
        "x": noise(*heads_shape(layouts[0], batch, heads, tokens, head_dim), dtype=dtype),
        "position": positions(mode, batch, tokens),
        "cache": noise(*heads_shape(layouts[1], batch, heads, keys, head_dim), seed=1, dtype=dtype),
    }
    outputs = {"cache": OutputSpec(tuple(inputs["cache"].shape), dtype)}
    attrs = {"heads": heads, "head_dim": head_dim, "x_layout": layouts[0], "x_first": 0, "cache_layout": layouts[1]}
    attrs["position_mode"] = mode
    actual, wanted = checked_call("update_cache", inputs, outputs, attrs)
    assert torch.equal(actual["cache"], wanted["cache"])
    assert not torch.equal(actual["cache"], inputs["cache"])


@pytest.mark.parametrize("kernel", ["update_cache", "update_cache_q8"])
@pytest.mark.parametrize("start", [-3, 9, 10, 2**31 - 3])
def test_positions_outside_the_cache_are_not_written(kernel: str, start: int) -> None:
    inputs = {
        "x": noise(1, 4, 2, 8),
        "position": torch.tensor([start], dtype=torch.int32),
        "cache": noise(1, 2, 10, 8, seed=1) if kernel == "update_cache" else torch.zeros(1, 2, 10, 8, dtype=torch.int8),
    }
    if kernel == "update_cache_q8":
        inputs["cache_scale"] = torch.ones(1, 2, 10)
    outputs = {slot: OutputSpec(tuple(inputs[slot].shape), inputs[slot].dtype) for slot in inputs if "cache" in slot}
    attrs = {"heads": 2, "head_dim": 8, "x_layout": 1, "x_first": 0, "cache_layout": 0, "position_mode": 0}
    actual, expected = checked_call(kernel, inputs, outputs, attrs)
    for slot, wanted in expected.items():
        assert torch.equal(actual[slot], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layouts", [(0, 0), (1, 1), (1, 0)])
def test_update_quantized_cache(dtype: torch.dtype, layouts: tuple[int, int]) -> None:
    """Codes and scales equal torch's bit for bit; a row of zeros, ties, and values that differ by 1e8 among them."""
    batch, heads, tokens, head_dim, keys = 2, 3, 7, 72, 23
    x = noise(batch, heads, tokens, head_dim)
    x[:, :, 0] = 0.0
    x[:, :, 1] = (torch.arange(head_dim) - 30) / 2
    x[:, :, 2, 5] = 3e4
    x[:, 0, 3] *= 1e-4
    inputs = {
        "x": (x if layouts[0] == 0 else x.transpose(1, 2)).to(dtype).contiguous(),
        "position": torch.tensor([9], dtype=torch.int32),
        "cache": torch.randint(-127, 128, heads_shape(layouts[1], batch, heads, keys, head_dim), dtype=torch.int8),
        "cache_scale": noise(*heads_shape(layouts[1], batch, heads, keys, 1)[:-1], seed=2),
    }
    outputs = {slot: OutputSpec(tuple(inputs[slot].shape), inputs[slot].dtype) for slot in ("cache", "cache_scale")}
    attrs = {"heads": heads, "head_dim": head_dim, "x_layout": layouts[0], "x_first": 0, "cache_layout": layouts[1]}
    attrs["position_mode"] = 0
    actual, expected = checked_call("update_cache_q8", inputs, outputs, attrs)
    for slot, wanted in expected.items():
        assert torch.equal(actual[slot], wanted), slot


@pytest.mark.parametrize(("dtype", "table"), DTYPES)
@pytest.mark.parametrize(
    ("merged", "normed", "interleaved", "rotary_dim", "mode", "cache_layout"),
    [
        (True, 0, 0, 64, 0, 0),
        (True, 1, 0, 64, 1, 0),
        (False, 1, 1, 64, 2, 1),
        (False, 0, 0, 32, 3, 1),
    ],
)
@pytest.mark.parametrize("disabled", ["", "is_cpu"])
def test_rotary_update_cache(
    dtype: torch.dtype,
    table: torch.dtype,
    merged: bool,
    normed: int,
    interleaved: int,
    rotary_dim: int,
    mode: int,
    cache_layout: int,
    disabled: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One head a workgroup, and four: of seven the second workgroup has one of q, k and v each."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", disabled)
    batch, heads, kv_heads, tokens, head_dim, keys = 2, 5, 1, 5, 64, 29
    if merged:
        row = noise(batch, tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
        inputs = {"q": row, "k": row, "v": row}
    else:
        inputs = {"q": noise(batch, heads, tokens, head_dim, dtype=dtype)}
        inputs |= {
            slot: noise(batch, kv_heads, tokens, head_dim, seed=i, dtype=dtype) for i, slot in ((1, "k"), (2, "v"))
        }
    norm = head_dim if normed else 1
    inputs |= {"q_norm": 1 + 0.1 * noise(norm, seed=3), "k_norm": 1 + 0.1 * noise(norm, seed=4)}
    inputs |= {**tables(40, rotary_dim, table), "position": positions(mode, batch, tokens)}
    cache = heads_shape(cache_layout, batch, kv_heads, keys, head_dim)
    inputs |= {"k_cache": noise(*cache, seed=5, dtype=dtype), "v_cache": noise(*cache, seed=6, dtype=dtype)}
    outputs = {"q_out": OutputSpec((batch, tokens, heads, head_dim), dtype)}
    outputs |= {slot: OutputSpec(cache, dtype) for slot in ("k_cache", "v_cache")}
    attrs: dict[str, int | float] = dict(
        rope_attrs(head_dim, rotary_dim, interleaved=interleaved, table_rows=0, mode=mode)
    )
    attrs |= {"heads": heads, "kv_heads": kv_heads, "out_layout": 1, "cache_layout": cache_layout, "normed": normed}
    first = heads * head_dim if merged else 0
    attrs |= {"q_layout": int(merged), "kv_layout": int(merged), "q_first": 0, "k_first": first}
    attrs |= {"v_first": first + kv_heads * head_dim if merged else 0, "eps": 1e-6}
    actual, wanted = checked_call("rotary_update_cache", inputs, outputs, attrs)
    _, pick = run_call("rotary_update_cache", inputs, outputs, attrs)
    assert pick.algorithm == ("lanes" if is_software() and not disabled else "teams")
    assert torch.equal(actual["v_cache"], wanted["v_cache"])
    check(actual["q_out"], wanted["q_out"])
    check(actual["k_cache"], wanted["k_cache"])
    untouched = (wanted["k_cache"] == inputs["k_cache"].double()).all(-1)
    assert torch.equal((actual["k_cache"] == inputs["k_cache"]).all(-1), untouched)
    assert 0 < int(untouched.sum()) < untouched.numel()


OUTSIDE = [(-1, 39), (-40, 0), (-41, 0), (40, 39), (2**31 - 1, 39), (-(2**31), 0)]  # of 40 rows, and the nearest one


@pytest.mark.parametrize(("place", "row"), OUTSIDE)
def test_a_position_outside_the_tables_has_the_nearest_row(place: int, row: int) -> None:
    """Negative ones count from the end. Fused with the caches of 30 places, it is written there, or not at all."""
    inputs = {"x": noise(1, 2, 1, 8), **tables(40, 8, torch.float32)}
    attrs = rope_attrs(8, 8, interleaved=0, table_rows=0, mode=0)
    separate = attrs | {"heads": 2, "x_layout": 0, "x_first": 0, "y_layout": 0}
    outputs = {"y": OutputSpec((1, 2, 1, 8), torch.float32)}
    at = {key: {"position": torch.tensor([key], dtype=torch.int32)} for key in (place, row)}
    found, there = (run_call("rotary_embedding", inputs | at[key], outputs, separate)[0]["y"] for key in (place, row))
    assert torch.equal(found, there)

    x = inputs.pop("x")
    norms = {"q_norm": torch.ones(1), "k_norm": torch.ones(1)}
    caches = {slot: noise(1, 2, 30, 8, seed=seed) for seed, slot in enumerate(("k_cache", "v_cache"))}
    outputs = {"q_out": OutputSpec((1, 2, 1, 8), torch.float32)}
    outputs |= {slot: OutputSpec((1, 2, 30, 8), torch.float32) for slot in caches}
    fused = attrs | {"heads": 2, "kv_heads": 2, "out_layout": 0, "cache_layout": 0, "normed": 0, "eps": 1e-6}
    fused |= {"q_layout": 0, "kv_layout": 0, "q_first": 0, "k_first": 0, "v_first": 0}
    given = {"q": x, "k": x, "v": x, **norms, **inputs, **caches, **at[place]}
    actual, _ = checked_call("rotary_update_cache", given, outputs, fused)
    assert torch.equal(actual["q_out"], there)
    cache = caches["v_cache"].clone()
    if place == -1:
        cache[:, :, -1] = x[:, :, 0]
    assert torch.equal(actual["v_cache"], cache)


@pytest.mark.parametrize(
    ("kernel", "source", "old", "new"),
    [
        ("rotary_embedding", "lib/rotary.glsl", "float first = x.x", "float first = x.y"),
        ("update_cache", "lib/positions.glsl", "int(s * position_step)", "int(s * position_step) + 1"),
    ],
)
def test_a_wrong_shader_is_noticed(kernel: str, source: str, old: str, new: str) -> None:
    x = noise(1, 2, 4, 8)
    attrs = {"heads": 2, "head_dim": 8, "x_layout": 0, "x_first": 0, "position_mode": 0}
    inputs = {"x": x, "position": torch.tensor([1], dtype=torch.int32)}
    if kernel == "update_cache":
        inputs["cache"] = noise(1, 2, 9, 8, seed=1)
        outputs = {"cache": OutputSpec((1, 2, 9, 8), torch.float32)}
        attrs |= {"cache_layout": 0}
    else:
        inputs |= tables(9, 8, torch.float32)
        outputs = {"y": OutputSpec((1, 2, 4, 8), torch.float32)}
        attrs |= {"rotary_dim": 8, "interleaved": 0, "table_rows": 0, "y_layout": 0}
    library = mutated_library(kernel, source, old, new)
    (actual,) = run_call(kernel, inputs, outputs, attrs, library=library)[0].values()
    (wanted,) = expected_outputs(kernel, inputs, outputs, attrs).values()
    assert relative_rms(actual, wanted) > 0.1

"""Loading, picking, recording and running on a device."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.signatures import of_any_dtype
from zeropoint.errors import RuntimeFailure
from zeropoint.kernels._generated.signatures import SIGNATURES, UnaryOp
from zeropoint.lowering.packing import Layout, pack_scales, pack_weight
from zeropoint.program import Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.devices import devices
from zeropoint.runtime.player import LoadedProgram, counters, kernel_library, programs

QPARAMS = {"mapping": 0, "qmin": -128, "qmax": 127, "eps": 1e-7}
PACKING = {"rounding": 0, "qmin": -128, "qmax": 127, "group_size": 32, "group_padded": 32, "step": 32}


def rows_of(n: int, k: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k), np.float32)


def qparams_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    scale = ((high - low) / np.float32(255)).astype(np.float32)
    return scale, np.clip(-128 - np.rint(low / scale), -128, 127)


def quantize(
    *, zp: str = "i8", storage: str = "buffer", device: str = "f32", host: str = "f32", most: int = 40, low: int = 1
) -> Program:
    """x -> scale, zp -> q, with scale and zp as outputs where they are buffers."""
    b = ProgramBuilder()
    rows = b.symbol("m", low, most)
    x = b.tensor("x", device, [rows, 64])
    scale = b.tensor("scale", "f32", [rows], storage=storage)
    zero = b.tensor("zp", zp, [rows], storage=storage)
    q = b.tensor("q", "i8", [rows, 64])
    b.input(x, host)
    b.call("choose_qparams_per_row", {"x": x, "scale": scale, "zp": zero}, QPARAMS)
    b.call("quantize_and_pack", {"x": x, "scale": scale, "zp": zero, "q": q}, PACKING)
    b.output(q)
    if storage == "buffer":
        b.output(scale)
        b.output(zero, "i64" if zp == "i32" else None)
    return b.build()[0]


@pytest.mark.parametrize("storage", ["buffer", "image"])
def test_every_tensor_can_be_read_back(storage: str) -> None:
    x = rows_of(7)
    scale, zp = qparams_of(x)
    with LoadedProgram(quantize(storage=storage), keep_all=True) as loaded:
        q = loaded.execute([x])[0]
        values = {info.name: loaded.read_tensor(i) for i, info in enumerate(loaded.tensors())}
        assert loaded.tensors()[0].dims == (7, 64)
    np.testing.assert_array_equal(values["x"], x)
    np.testing.assert_allclose(values["scale"], scale, rtol=1e-6)
    np.testing.assert_array_equal(values["zp"], zp)
    np.testing.assert_array_equal(values["q"], q)


def test_reading_back_needs_keep_all() -> None:
    with LoadedProgram(quantize()) as loaded:
        loaded.execute([rows_of(1)])
        with pytest.raises(RuntimeFailure, match=r"^tensor x: load with keep_all and execute first$"):
            loaded.read_tensor(0)


def test_a_symbol_dimension_records_once_per_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_SLICE_MS", "0")  # whatever a busy machine takes
    with LoadedProgram(quantize()) as loaded:
        before = counters()
        for n in (3, 5, 3, 5, 3):
            q, scale, zp = loaded.execute([rows_of(n, seed=n)])
            assert (q.shape, scale.shape, zp.shape) == ((n, 64), (n,), (n,))
            np.testing.assert_allclose(scale, qparams_of(rows_of(n, seed=n))[0], rtol=1e-6)
        after = counters()
    assert after["recordings"] - before["recordings"] == 2
    assert after["submits"] - before["submits"] == 5


def test_steady_state_allocates_no_device_memory_and_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_SLICE_MS", "0")
    with LoadedProgram(quantize()) as loaded:
        loaded.execute([rows_of(3)])
        before = counters()
        for _ in range(10):
            loaded.execute([rows_of(3)])
        after = counters()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"executes", "submits"}


def test_old_recordings_are_evicted_and_come_back() -> None:
    with LoadedProgram(quantize()) as loaded:
        before = counters()["recordings"]
        for n in (*range(1, 21), 20, 1):
            np.testing.assert_allclose(loaded.execute([rows_of(n)])[1], qparams_of(rows_of(n))[0], rtol=1e-6)
        assert counters()["recordings"] - before == 21


def test_dependent_calls_get_one_barrier_each_and_independent_ones_none() -> None:
    b = ProgramBuilder()
    x = b.tensor("x", "f32", [4, 64])
    b.input(x)
    for name in "abc":
        scale, zp = b.tensor(f"scale_{name}", "f32", [4]), b.tensor(f"zp_{name}", "i8", [4])
        b.call("choose_qparams_per_row", {"x": x, "scale": scale, "zp": zp}, QPARAMS)
        b.output(scale)
        b.output(zp)
    with LoadedProgram(b.build()[0]) as loaded:
        before = counters()
        outputs = loaded.execute([rows_of(4)])
        copied = devices()[0].type == "discrete" or "ZEROPOINT_STAGING" in os.environ  # the zero points, of 8 bits
        assert counters()["barriers_recorded"] - before["barriers_recorded"] == copied
    for scale in outputs[::2]:
        np.testing.assert_allclose(scale, qparams_of(rows_of(4))[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("device", "host", "numpy"),
    [("f32", "f32", np.float32), ("f16", "f32", np.float32), ("f32", "f16", np.float16), ("f16", "f16", np.float16)],
)
def test_inputs_are_converted_on_copy(device: str, host: str, numpy: type) -> None:
    x = rows_of(5).astype(np.float16).astype(numpy)
    with LoadedProgram(quantize(device=device, host=host)) as loaded:
        np.testing.assert_allclose(loaded.execute([x])[1], qparams_of(x.astype(np.float32))[0], rtol=1e-6)


def test_bf16_and_i64_travel_as_their_bits() -> None:
    x = rows_of(5)
    bits = (x.view(np.uint32) >> 16).astype(np.uint16)
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    with LoadedProgram(quantize(host="bf16", zp="i32")) as loaded:
        _, scale, zp = loaded.execute([bits])
    assert zp.dtype == np.int64
    np.testing.assert_array_equal(zp, qparams_of(exact)[1])
    np.testing.assert_allclose(scale, qparams_of(exact)[0], rtol=1e-6)


@pytest.mark.parametrize("device", ["f32", "f16"])
@pytest.mark.parametrize("host", ["f32", "f16", "bf16"])
def test_conversions_round_half_to_even_for_every_f16(device: str, host: str) -> None:
    """Input straight to output: all f16 bit patterns, and f32 values half-way between them."""
    b = ProgramBuilder()
    x = b.tensor("x", device, [3, 65536])
    b.input(x, "f32")
    b.output(x, host)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        between = (halves.view(np.uint32) + np.uint32(0x1000)).view(np.float32)
        values = np.stack([halves, between, np.nextafter(between, np.float32(0), dtype=np.float32)])
        stored = values.astype(np.float16).astype(np.float32) if device == "f16" else values
        expected = stored if host == "f32" else stored.astype(np.float16).astype(np.float32)
    with LoadedProgram(b.build()[0]) as loaded:
        (y,) = loaded.execute([values])
    if host == "bf16":
        import torch

        expected = torch.from_numpy(stored).bfloat16().float().numpy()
        y = (y.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(y.astype(np.float32), expected)


def test_an_integer_beyond_32_bits_is_refused() -> None:
    b = ProgramBuilder()
    x = b.tensor("x", "i32", [3])
    b.input(x, "i64")
    b.output(x, "i64")
    with LoadedProgram(b.build()[0]) as loaded:
        good = np.array([-(2**31), 0, 2**31 - 1])
        np.testing.assert_array_equal(loaded.execute([good])[0], good)
        with pytest.raises(RuntimeFailure, match=r"^input\[0\]: element 2: 2147483648; need 32 bits$"):
            loaded.execute([np.array([1, 2, 2**31])])


def test_column_pieces_lie_side_by_side() -> None:
    b = ProgramBuilder()
    rows = b.symbol("m", 1, 9)
    parts = [b.tensor(f"p{n}", "f32", [rows, n]) for n in (3, 1, 4)]
    for part in parts:
        b.input(part)
    b.output(parts, "f16")
    arrays = [rows_of(6, n, seed=n) for n in (3, 1, 4)]
    with LoadedProgram(b.build()[0]) as loaded:
        (y,) = loaded.execute(arrays)
    np.testing.assert_array_equal(y, np.concatenate(arrays, -1).astype(np.float16))


@pytest.mark.parametrize(
    ("n", "given_back", "read_later"),
    [(64, False, False), (64, True, False), (64, False, True), ((1 << 18) + 64, False, False)],
)
def test_outputs_are_copied_where_a_kernel_does_not_write_them_to_the_host(
    n: int, given_back: bool, read_later: bool
) -> None:
    """Those that are an input, or that a call reads, or larger than 1 MiB, on a device with memory of its own."""
    b = ProgramBuilder()
    m = b.symbol("m", 1, n)
    x, y = (b.tensor(name, "f32", [m]) for name in "xy")
    b.input(x)
    negated = {"op": UnaryOp.NEG, "alpha": 0.0, "beta": 0.0}
    b.call("elementwise_unary", {"x": x, "y": y}, negated)
    b.output(b.alias(y, [m, 1]))
    for _ in range(2):
        b.output(y, "f16")
    if given_back:
        b.output(x)
    if read_later:
        z = b.tensor("z", "f32", [m])
        b.call("elementwise_unary", {"x": y, "y": z}, negated)
        b.output(z)
    given = np.random.default_rng(0).integers(-99, 99, n).astype(np.float32)
    for keep_all in (False, True):
        with LoadedProgram(b.build()[0], keep_all=keep_all) as loaded:
            before = counters()
            for many in (n, n // 2, n):
                found = loaded.execute([given[:many]])
                wanted = [-given[:many, None], -given[:many], -given[:many]] + [given[:many]] * (
                    given_back or read_later
                )
                assert [item.shape for item in found] == [item.shape for item in wanted]
                assert all(np.array_equal(item, right) for item, right in zip(found, wanted, strict=True))
            own = devices()[0].type == "discrete" or "ZEROPOINT_STAGING" in os.environ
            recorded = counters()["barriers_recorded"] - before["barriers_recorded"]
            assert recorded == 2 * (read_later or (n > 1 << 18 and own))  # of two lengths
            if keep_all:
                np.testing.assert_array_equal(loaded.read_tensor(x), given)
                np.testing.assert_array_equal(loaded.read_tensor(y), -given)


def test_output_shapes_follow_dimensions_and_integers() -> None:
    """Whatever the call before had."""
    b = ProgramBuilder()
    n, m = b.symbol("n", 1, 9), b.symbol("m", 1, 9)
    b.input_symbol(n)
    x = b.tensor("x", "f32", [m])
    b.input(x)
    b.output(x)
    y = b.tensor("y", "i32", [n])
    b.call("arange", {"y": y}, {"start": 0, "step": 1})
    b.output(y)
    with LoadedProgram(b.build()[0]) as loaded:
        for rows, columns in ((2, 3), (2, 3), (4, 3), (4, 5), (2, 3)):
            found = loaded.execute([rows, np.zeros(columns, np.float32)])
            assert [item.shape for item in found] == [(columns,), (rows,)]
        frozen, plain = np.arange(3, dtype=np.float32), np.arange(6, dtype=np.float32)
        frozen.flags.writeable = False
        only_warns = np.broadcast_arrays(np.array(7, np.float32), plain[:1])[0]  # writeable, but its buffer is not
        assert only_warns.data.readonly
        for given in (frozen, only_warns, plain[::2]):
            np.testing.assert_array_equal(loaded.execute([2, given])[0], given)


def test_symbols_from_integers_and_multiples() -> None:
    b = ProgramBuilder()
    m = b.symbol("m", 2, 9)
    b.input_symbol(m)
    x = b.tensor("x", "f32", [dataclasses.replace(m, base=1, terms=((2, 0),))])
    b.input(x)
    b.output(x)
    with LoadedProgram(b.build()[0]) as loaded:
        assert loaded.execute([4, np.zeros(9, np.float32)])[0].shape == (9,)
        with pytest.raises(RuntimeFailure, match=r"^input\[1\]: shape \[8\]; need \[9\]$"):
            loaded.execute([4, np.zeros(8, np.float32)])
        with pytest.raises(RuntimeFailure, match=r"^input\[0\]: value 10 gives no m in \[2, 9\]$"):
            loaded.execute([10, np.zeros(21, np.float32)])


def test_empty_inputs_give_empty_outputs_without_a_submission() -> None:
    with LoadedProgram(quantize(low=0)) as loaded:
        before = counters()["submits"]
        q, scale, _ = loaded.execute([rows_of(0)])
        assert (q.shape, scale.shape) == ((0, 64), (0,))
        assert counters()["submits"] == before


def test_wrong_inputs_are_refused() -> None:
    with LoadedProgram(quantize()) as loaded:
        with pytest.raises(RuntimeFailure, match=r"^execute: 2 inputs; the program has 1$"):
            loaded.execute([rows_of(1), rows_of(1)])
        with pytest.raises(RuntimeFailure, match=r"^execute: input\[0\]: float64; need float32$"):
            loaded.execute([rows_of(1).astype(np.float64)])
        with pytest.raises(RuntimeFailure, match=r"^input\[0\]: 1 dimensions; need 2$"):
            loaded.execute([rows_of(1)[0]])
        with pytest.raises(RuntimeFailure, match=r"^input\[0\]: shape \[2, 63\]; need \[2, 64\]$"):
            loaded.execute([rows_of(2, 63)])
        with pytest.raises(RuntimeFailure, match=r"^input\[0\]: dimension 41 gives no m in \[1, 40\]$"):
            loaded.execute([rows_of(41)])


@pytest.mark.parametrize(
    ("dtype", "scale_storage", "slot", "offered"),
    [
        ("u8", "buffer", "slot zp: dtype u8", {"f16", "f32", "i32", "i8"}),
        ("i8", "image", "slot scale: f32:image", {"f32:buffer"}),
    ],
)
def test_a_zero_point_of_another_dtype_or_storage_is_refused_at_load(
    dtype: str, scale_storage: str, slot: str, offered: set[str]
) -> None:
    b = ProgramBuilder(of_any_dtype(SIGNATURES["choose_qparams_per_row"]))
    x = b.tensor("x", "f32", [2, 64])
    scale, zp = b.tensor("scale", "f32", [2], storage=scale_storage), b.tensor("zp", dtype, [2])
    b.input(x)
    b.call("choose_qparams_per_row", {"x": x, "scale": scale, "zp": zp}, QPARAMS)
    b.output(zp)
    with pytest.raises(RuntimeFailure) as refused:
        LoadedProgram(b.build()[0])
    head, _, texts = str(refused.value).rpartition("offered ")
    assert head.startswith(f"program: call[0] choose_qparams_per_row: {slot}; ")
    assert set(texts.rpartition(": ")[2].split(", ")) == offered


def test_a_missing_fact_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "storage_16bit, float16")
    b = ProgramBuilder()
    x, y = b.tensor("x", "f16", [4]), b.tensor("y", "f16", [4])
    b.input(x)
    b.call("elementwise_unary", {"x": x, "y": y}, {"op": 0, "alpha": 0.0, "beta": 0.0})
    b.output(y)
    with pytest.raises(RuntimeFailure, match=r"elementwise_unary: .* cannot run it: \w+ needs storage_16bit$"):
        LoadedProgram(*b.build())
    assert devices()[0].facts["storage_16bit"] == 0


def test_unknown_facts_and_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "int8_dto")
    with pytest.raises(RuntimeFailure, match=r"^ZEROPOINT_DISABLE: no fact int8_dto; facts: int8_dot, storage_8bit, "):
        LoadedProgram(quantize())
    monkeypatch.delenv("ZEROPOINT_DISABLE")
    for name in ("no such device", "99"):
        monkeypatch.setenv("ZEROPOINT_DEVICE", name)
        text = rf"^ZEROPOINT_DEVICE={name}: no such usable device; devices: 0: .* \(\w+\)"
        with pytest.raises(RuntimeFailure, match=text):
            LoadedProgram(quantize())


def test_a_device_is_found_by_index_and_by_part_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0", devices()[0].name[1:6].upper()):
        monkeypatch.setenv("ZEROPOINT_DEVICE", name)
        LoadedProgram(quantize()).close()


def linear(seed: int) -> tuple[Program, dict[str, bytes]]:
    """A linear with weights of its own seed, and scales that all seeds share."""
    rng = np.random.default_rng(seed)
    layout = Layout(row_length=64, group_size=32, group_padded=32, step=32)
    codes = rng.integers(-8, 8, (24, 64), np.int8)
    b = ProgramBuilder()
    x = b.tensor("x", "f32", [3, 64])
    y = b.tensor("y", "f32", [3, 24])
    b.input(x)
    scales = pack_scales(np.full((24, 2), 0.5, np.float32), layout)
    w = b.constant("w", "i4", [2, 24, 32], data=pack_weight(codes, layout, bits=4))
    w_scale = b.constant("w_scale", "f32", [2, 24], data=scales)
    attrs = {"group_size": 32, "group_padded": 32, "step": 32}
    b.call("linear_qgsw", {"x": x, "w": w, "w_scale": w_scale, "y": y}, attrs)
    b.output(y)
    return b.build()


def test_constants_are_shared_by_content_and_uploaded_once() -> None:
    before = counters()
    first, second, third = (LoadedProgram(*linear(seed)) for seed in (1, 1, 2))
    loaded = counters()
    assert loaded["constants_uploaded"] - before["constants_uploaded"] == 3  # two weights, one table of scales
    assert loaded["constants_shared"] - before["constants_shared"] == 3
    outputs = [program.execute([rows_of(3)])[0] for program in (first, second, third)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])
    for program in (first, second, third):
        program.close()
    assert counters()["programs"] == before["programs"]
    again = LoadedProgram(*linear(1))
    assert counters()["constants_uploaded"] - loaded["constants_uploaded"] == 2
    np.testing.assert_array_equal(again.execute([rows_of(3)])[0], outputs[0])


def test_missing_and_cut_constants_are_refused() -> None:
    program, constants = linear(1)
    key = next(t.constant for t in program.tensors if t.name == "w")
    with pytest.raises(RuntimeFailure, match=rf"^program: tensor w: constant {key}: not among the constants given$"):
        LoadedProgram(program, {k: v for k, v in constants.items() if k != key})
    text = rf"^program: tensor w: constant {key}: 5 bytes; its dtype and dimensions need 768$"
    with pytest.raises(RuntimeFailure, match=text):
        LoadedProgram(program, {**constants, key: b"12345"})


def test_the_same_library_from_memory_gives_the_same_result() -> None:
    x = rows_of(2)
    with LoadedProgram(quantize(), library=kernel_library()) as other, LoadedProgram(quantize()) as own:
        np.testing.assert_array_equal(other.execute([x])[0], own.execute([x])[0])


def test_profiles_say_what_ran_and_how_long() -> None:
    with LoadedProgram(quantize(), profile=True) as loaded:
        assert loaded.picks() == ()
        loaded.execute([rows_of(2)])
        first, second = loaded.picks()
    assert first.key == f"choose_qparams_per_row/{first.algorithm}[x=f32:buffer,scale=f32:buffer,zp=i8:buffer]"
    assert (first.call, first.name, first.kernel) == (0, "choose_qparams_per_row", "choose_qparams_per_row")
    assert min(first.grid) >= 1
    assert first.time_ns is not None
    assert second.time_ns is not None


def test_live_programs_are_listed_and_forgotten() -> None:
    loaded = LoadedProgram(quantize(), keep_all=True)
    (found,) = (item for item in programs() if item.id == loaded._id)
    assert (found.method, found.flags) == ("", 1)
    loaded.close()
    assert all(item.id != found.id for item in programs())
    with pytest.raises(RuntimeFailure, match=rf"^program {found.id}: no such program$"):
        LoadedProgram.execute(_with_id(found.id), [rows_of(1)])


def _with_id(program_id: int) -> LoadedProgram:
    """A program object whose program is gone."""
    ghost = LoadedProgram(quantize())
    ghost.close()
    ghost._id = program_id
    ghost.close = lambda: None  # type: ignore[method-assign]
    return ghost


def test_threads_share_programs_and_the_device() -> None:
    """Sixteen threads load, run and drop programs, half of them on one shared program."""
    shared = LoadedProgram(quantize())
    failures: list[str] = []

    def work(seed: int) -> None:
        for step in range(4):
            n = 1 + (seed * 7 + step) % 30
            x = rows_of(n, seed=seed * 100 + step)
            program = shared if seed % 2 else LoadedProgram(quantize())
            if not np.allclose(program.execute([x])[1], qparams_of(x)[0], rtol=1e-6):
                failures.append(f"seed {seed} step {step}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert failures == []


RUN_ONCE = """
import numpy as np
from tests.player.test_player import quantize, rows_of
from zeropoint.runtime.player import LoadedProgram
print(LoadedProgram(quantize()).execute([rows_of(3)])[0].sum())
"""


def run_once(most_bytes: int = resource.RLIM_INFINITY) -> str:
    """In a process of its own, whose files may have most_bytes: beyond, writing fails as on a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ONCE],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )
    assert done.stderr == ""
    return done.stdout


def test_the_pipeline_cache_is_written_used_and_never_trusted(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "new" / "cache"
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", str(folder))
    first = run_once()
    (path,) = folder.glob("*.pipelines")
    good = path.read_bytes()
    assert run_once() == first
    for damaged in (good[:10], b"", good[:-1], bytes(b ^ 0xFF for b in good), good[:38] + b"\0" * (len(good) - 38)):
        path.write_bytes(damaged)
        assert run_once() == first
        assert path.read_bytes()[:6] == good[:6]
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", "")
    path.unlink()
    assert run_once() == first
    assert list(folder.iterdir()) == []


def test_a_pipeline_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A full disk, a folder in the file's place, a file in the folder's, a folder that nobody may write."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", str(folder))
    first = run_once()
    (path,) = folder.iterdir()
    path.unlink()
    assert run_once(most_bytes=20) == first
    assert list(folder.iterdir()) == []
    path.mkdir()
    assert run_once() == first
    assert list(folder.iterdir()) == [path]
    for place in (__file__, "/proc/zeropoint"):
        monkeypatch.setenv("ZEROPOINT_CACHE_DIR", place)
        assert run_once() == first


def test_devices_with_memory_of_their_own_give_the_same_results() -> None:
    """All other tests of this file again, with memory that the host does not see, as on a discrete GPU."""
    if "ZEROPOINT_STAGING" in os.environ:
        return
    chosen = "not pipeline_cache and not conversions"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, __file__]
    done = subprocess.run(
        command, env={**os.environ, "ZEROPOINT_STAGING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout

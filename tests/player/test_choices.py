"""Which algorithm is picked where a file beside the pipeline cache names one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from zeropoint.lowering.packing import Layout, pack_weight
from zeropoint.program import Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.player import LoadedProgram, Pick
from zeropoint.verification.verify import verify_program

HEADER = "zeropoint choices 1\n"
LAYOUT = Layout(row_length=64, group_size=32, group_padded=32, step=32)
ALWAYS = "tiled_nodot"  # has no guard, and stands last


def linear() -> tuple[Program, dict[str, bytes]]:
    """8da4w from quantized rows on, 1 to 40 of them."""
    rng = np.random.default_rng(0)
    b = ProgramBuilder()
    m = b.symbol("m", 1, 40)
    q, scale, zp = b.tensor("q", "i8", [m, 64]), b.tensor("scale", "f32", [m]), b.tensor("zp", "i8", [m])
    for tensor in (q, scale, zp):
        b.input(tensor)
    w = b.constant("w", "i4", [2, 24, 32], data=pack_weight(rng.integers(-8, 8, (24, 64), np.int8), LAYOUT, bits=4))
    w_scale = b.constant("w_scale", "f32", [2, 24], data=rng.uniform(0.1, 0.2, (2, 24)).astype(np.float32).tobytes())
    y = b.tensor("y", "f32", [m, 24])
    args = {"q": q, "scale": scale, "zp": zp, "w": w, "w_scale": w_scale, "y": y}
    b.call("linear_dq8ca", args, {"step": 32})
    b.output(y)
    return b.build()


def rows_of(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    codes, zero_points = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((n, 64), n))
    return [codes, rng.uniform(0.01, 0.02, n).astype(np.float32), zero_points]


def pick_of(n: int) -> Pick:
    """What a program that is loaded now picks for n rows."""
    with LoadedProgram(*linear()) as loaded:
        loaded.execute(rows_of(n))
        return loaded.picks()[0]


@pytest.fixture
def path() -> Path:
    with LoadedProgram(*linear()) as loaded:
        found = loaded.choices()
    assert found.path is not None
    assert (found.count, found.path.suffix, found.path.exists()) == (0, ".choices", False)
    return found.path


@pytest.fixture
def plain(path: Path) -> dict[int, Pick]:
    """By rows, without choices."""
    return {n: pick_of(n) for n in (1, 4, 5, 8, 9)}


def line(pick: Pick, algorithm: str) -> str:
    return f"{pick.signature} -> {algorithm}\n"


def test_a_choice_is_followed_and_every_algorithm_gives_the_same(path: Path, plain: dict[int, Pick]) -> None:
    followed = set()
    for n in (1, 5):
        before = pick_of(n)
        for algorithm in before.candidates:
            path.write_text(HEADER + line(before, algorithm))
            found = pick_of(n).algorithm
            assert found in (algorithm, before.algorithm)
            if found != before.algorithm:
                followed.add((n, found))
                assert verify_program(*linear(), rows_of(n)).is_right
        path.unlink()
    assert {(n, name) for n in (1, 5) for name in (ALWAYS, "gemv_nodot")} <= followed


def test_it_is_read_at_each_load(path: Path, plain: dict[int, Pick]) -> None:
    with LoadedProgram(*linear()) as old:
        path.write_text(HEADER + line(plain[5], ALWAYS) + line(plain[1], ALWAYS))
        with LoadedProgram(*linear()) as new:
            assert (old.choices().count, new.choices().count) == (0, 2)
            for loaded in (old, new):
                loaded.execute(rows_of(5))
            assert old.picks()[0].algorithm == plain[5].algorithm
            assert new.picks()[0].algorithm == ALWAYS != plain[5].algorithm


def test_sizes_that_depend_on_symbols_are_rounded_up_to_powers_of_two(path: Path, plain: dict[int, Pick]) -> None:
    assert plain[5].signature == (
        "linear_dq8ca step=32 q=i8:buffer[8,64] scale=f32:buffer[8] zp=i8:buffer[8] w=i4:buffer[2,24,32] "
        "w_scale=f32:buffer[2,24] y=f32:buffer[8,24]"
    )
    assert plain[8].signature == plain[5].signature
    assert len({plain[n].signature for n in plain}) == 4
    path.write_text(HEADER + line(plain[5], ALWAYS))
    assert {n: pick_of(n).algorithm for n in plain} == {
        **{n: pick.algorithm for n, pick in plain.items()},
        5: ALWAYS,
        8: ALWAYS,
    }


def test_a_guard_that_does_not_hold_comes_before_a_choice(path: Path, plain: dict[int, Pick]) -> None:
    """`gemv_nodot` is for up to 8 rows."""
    with LoadedProgram(*linear()) as loaded:
        loaded.execute(rows_of(16))
        before = loaded.picks()[0]
    path.write_text(HEADER + line(before, "gemv_nodot") + line(plain[5], "gemv_nodot"))
    assert "gemv_nodot" in before.candidates
    assert pick_of(16).algorithm == before.algorithm
    assert pick_of(5).algorithm == "gemv_nodot"


def test_a_fact_that_is_switched_off_comes_before_a_choice(
    path: Path, plain: dict[int, Pick], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZEROPOINT_DISABLE", "int8_dot")
    before = pick_of(5)
    path.write_text(HEADER + line(before, "gemv"))
    assert pick_of(5).algorithm == before.algorithm
    path.write_text(HEADER + line(before, ALWAYS))
    assert pick_of(5).algorithm == ALWAYS


def damaged(good: str) -> Iterator[bytes]:
    body = good.removeprefix(HEADER)
    yield good.replace("choices 1", "choices 2").encode()
    yield body.encode()
    yield good[:-1].encode()  # cut
    yield good.replace(ALWAYS, "no_such_algorithm").encode()
    yield good.replace("linear_dq8ca", "no_such_kernel").encode()
    yield good.replace(" -> ", "->").encode()
    yield good.encode("utf-16")
    yield bytes(byte ^ 0xFF for byte in good.encode())
    yield b""
    yield HEADER.encode()
    yield b"\0" * 100
    yield good.encode() + b"x" * (256 << 10)


def test_what_is_no_choice_is_ignored(path: Path, plain: dict[int, Pick]) -> None:
    good = HEADER + line(plain[5], ALWAYS)
    for data in damaged(good):
        path.write_bytes(data)
        assert pick_of(5).algorithm == plain[5].algorithm
    path.write_text(HEADER + "nonsense\n\n -> \n" + good.removeprefix(HEADER) + "more\n")
    assert pick_of(5).algorithm == ALWAYS


def test_a_file_that_is_not_the_devices_own_is_ignored(
    path: Path, plain: dict[int, Pick], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another device's, a folder, a link; and without a cache there is none."""
    good = HEADER + line(plain[5], ALWAYS)
    other = path.with_name("0" + path.name)
    other.write_text(good)
    assert pick_of(5).algorithm == plain[5].algorithm
    path.symlink_to(other)
    assert pick_of(5).algorithm == plain[5].algorithm
    path.unlink()
    path.mkdir()
    assert pick_of(5).algorithm == plain[5].algorithm
    path.rmdir()
    path.write_text(good)
    assert pick_of(5).algorithm == ALWAYS
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", "")
    assert pick_of(5).algorithm == plain[5].algorithm
    with LoadedProgram(*linear()) as loaded:
        assert (loaded.choices().path, loaded.choices().count) == (None, 0)


def test_a_folder_with_letters_beyond_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Prüfung ß"
    monkeypatch.setenv("ZEROPOINT_CACHE_DIR", str(folder))
    with LoadedProgram(*linear()) as loaded:
        found = loaded.choices().path
    assert found is not None
    assert found.parent == folder
    assert folder.is_dir()

"""A constant whose bytes are not those that were exported is refused and never reaches another load."""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime

import zeropoint
from tests.player.test_player import linear, rows_of
from zeropoint.errors import RuntimeFailure
from zeropoint.export.inspection import inspect
from zeropoint.program import Program
from zeropoint.program.builder import ProgramBuilder
from zeropoint.runtime.player import LoadedProgram, counters


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


NATIVE = Path(__file__).parents[2] / "backend" / "runtime" / "native"
(MEBIBYTES,) = re.findall(r"kHalfBytes = (\d+) << 20;", (NATIVE / "memory.cpp").read_text())
HALF = int(MEBIBYTES) << 20  # of a staging buffer


def test_every_byte_counts() -> None:
    program, constants = linear(1)
    names = {tensor.constant: tensor.name for tensor in program.tensors if tensor.constant}
    assert sorted(names.values()) == ["w", "w_scale"]
    for key, data in constants.items():
        for at in range(len(data)):
            damaged = {**constants, key: flipped(data, at)}
            text = (
                rf"^program: tensor {names[key]}: constant {key}: its bytes have the hash [0-9a-f]{{32}}; the file is "
            )
            with pytest.raises(RuntimeFailure, match=text):
                LoadedProgram(program, damaged)


@pytest.mark.parametrize("staging", [False, True])
def test_a_large_constant_is_hashed_across_the_pieces_it_is_copied_in(
    staging: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger than both halves of a staging buffer, and no multiple of what is hashed at once.

    The first load opens the device, beside which it hashes what it will stage.
    """
    monkeypatch.setenv("ZEROPOINT_DISABLE", "subgroup_vote" if staging else "subgroup_ballot")  # contexts of their own
    if staging:
        monkeypatch.setenv("ZEROPOINT_STAGING", "1")
    program, constants, table = gathered((2 * HALF + (1 << 20)) // 4 + 5)
    (key,) = constants
    before = counters()["constants_uploaded"]
    with pytest.raises(RuntimeFailure, match=rf"^program: tensor table: constant {key}: its bytes have the hash "):
        LoadedProgram(program, {key: flipped(constants[key], 2 * HALF)})
    assert counters()["constants_uploaded"] == before
    with LoadedProgram(program, constants) as loaded:
        np.testing.assert_array_equal(loaded.read_tensor(1), table)
        before = counters()["constants_uploaded"]
        for at in (0, HALF, len(constants[key]) - 4):
            with pytest.raises(
                RuntimeFailure, match=rf"^program: tensor table: constant {key}: its bytes have the hash "
            ):
                LoadedProgram(program, {key: flipped(constants[key], at)})
        assert counters()["constants_uploaded"] == before  # a living load has them: they are hashed all the same
    with pytest.raises(RuntimeFailure, match="tensor table"):
        LoadedProgram(program, {key: flipped(constants[key], HALF)})


def copied(sizes: list[int]) -> tuple[Program, dict[str, bytes], list[np.ndarray]]:
    """A Program whose constants have these numbers of f32 elements; its output is the first of each."""
    b = ProgramBuilder()
    tables = [np.arange(n, dtype=np.float32) + 1000 * index for index, n in enumerate(sizes)]
    y = b.tensor("y", "f32", [len(sizes)])
    ones = {f"{name}{axis}": int(axis == 3) for name in ("x_stride", "y_stride") for axis in range(4)}
    ones |= {f"size{axis}": 1 for axis in range(4)}
    for index, table in enumerate(tables):
        source = b.constant(f"table{index}", "f32", [table.size], data=table)
        b.call("strided_copy", {"x": source, "y": y}, {**ones, "x_offset": 0, "y_offset": index})
    b.output(y)
    return *b.build(), tables


def test_constants_of_any_size_in_the_halves_of_staging(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends within a half, one that ends with it, ones that cross an end, and the last that begins a half."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", "subgroup_shuffle")  # a context of its own
    monkeypatch.setenv("ZEROPOINT_STAGING", "1")
    half = HALF // 4
    program, constants, tables = copied([3, half - 4, 5, half, half - 8, 7, half])
    with LoadedProgram(program, constants) as loaded:
        (y,) = loaded.execute([])
        np.testing.assert_array_equal(y, [table[0] for table in tables])
        for index, tensor in enumerate(loaded.tensors()):
            if tensor.name.startswith("table"):
                np.testing.assert_array_equal(loaded.read_tensor(index), tables[int(tensor.name[5:])])


def test_two_tensors_of_one_constant_have_its_size() -> None:
    """A forged file: the second would be bound beyond the end of a buffer of the first one's size."""
    program, constants, _ = copied([4, 1024])
    small, large = (tensor for tensor in program.tensors if tensor.constant)
    forged = [replace(tensor, constant=small.constant) if tensor is large else tensor for tensor in program.tensors]
    text = f"tensor table1: constant {small.constant}: 16 bytes; its dtype and dimensions need 4096"
    with pytest.raises(RuntimeFailure, match=f"^program: {text}$"):
        LoadedProgram(replace(program, tensors=tuple(forged)), constants)


def gathered(n: int) -> tuple[Program, dict[str, bytes], np.ndarray]:
    """A Program that copies the first elements of a table of n."""
    table = np.arange(n, dtype=np.float32)
    b = ProgramBuilder()
    y = b.tensor("y", "f32", [4])
    source = b.constant("table", "f32", [n], data=table)
    attrs = {f"{name}{axis}": int(axis == 3) for name in ("x_stride", "y_stride") for axis in range(4)}
    sizes = {f"size{axis}": 4 if axis == 3 else 1 for axis in range(4)}
    b.call("strided_copy", {"x": source, "y": y}, {**attrs, **sizes, "x_offset": 0, "y_offset": 0})
    b.output(y)
    return *b.build(), table


def test_a_damaged_file_that_comes_first_changes_nothing() -> None:
    program, constants = linear(1)
    with LoadedProgram(program, constants) as loaded:
        (wanted,) = loaded.execute([rows_of(3)])
    for key, data in constants.items():
        with pytest.raises(RuntimeFailure, match="the file is damaged"):
            LoadedProgram(program, {**constants, key: flipped(data, 3)})
        with LoadedProgram(program, constants) as loaded:
            np.testing.assert_array_equal(loaded.execute([rows_of(3)])[0], wanted)


def test_old_keys_are_not_believed() -> None:
    """Two old Programs that name other bytes by one key: each computes its own; equal bytes are still shared."""

    def old(seed: int) -> tuple[Program, dict[str, bytes]]:
        program, constants = linear(seed)
        keys = {key: f"{index:064}" for index, key in enumerate(sorted(constants, key=lambda k: len(constants[k])))}
        tensors = tuple(replace(t, constant=keys.get(t.constant, "")) for t in program.tensors)
        return replace(program, tensors=tensors, version=3), {keys[key]: data for key, data in constants.items()}

    x = rows_of(3)
    with LoadedProgram(*linear(1)) as first, LoadedProgram(*linear(2)) as second:
        wanted = [loaded.execute([x])[0] for loaded in (first, second)]
        before = counters()["constants_uploaded"]
        with LoadedProgram(*old(1)) as one, LoadedProgram(*old(2)) as two:
            for loaded, expected in zip((one, two), wanted, strict=True):
                np.testing.assert_array_equal(loaded.execute([x])[0], expected)
        assert counters()["constants_uploaded"] == before


class Table(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(1, 65, dtype=torch.float32).reshape(4, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x * self.table
        return result


@pytest.mark.parametrize("ptd", [False, True], ids=["pte", "ptd"])
def test_damaged_files(tmp_path: Path, ptd: bool, capfd: pytest.CaptureFixture[str]) -> None:
    zeropoint.register()
    options = zeropoint.CompileOptions(weights_file="w" if ptd else "")
    program = torch.export.export(Table(), (torch.ones(4, 16),))
    manager = to_edge_transform_and_lower(
        program, partitioner=[zeropoint.ZeropointPartitioner(options)]
    ).to_executorch()
    files: Mapping[str, bytes] = {"m.pte": bytes(manager.buffer)}
    if ptd:
        manager.write_tensor_data_to_file(str(tmp_path))
        files = {**files, "w.ptd": (tmp_path / "w.ptd").read_bytes()}
    (delegate,) = inspect(files["m.pte"]).programs
    (key,) = {tensor.constant for tensor in delegate.tensors if tensor.constant}
    name, data = list(files.items())[-1]
    table = Table().table.numpy().tobytes()
    assert data.count(table) == 1

    def load(content: bytes) -> torch.Tensor:
        for file, original in files.items():
            (tmp_path / file).write_bytes(content if file == name else original)
        path, extra = tmp_path / "m.pte", {"data_path": tmp_path / "w.ptd"} if ptd else {}
        loaded = Runtime.get().load_program(path, **extra)
        result: torch.Tensor = loaded.load_method("forward").execute([torch.ones(4, 16)])[0].clone()
        gc.collect()
        return result

    start = data.index(table)
    for at in range(start, start + len(table)):
        with pytest.raises(RuntimeError):
            load(flipped(data, at))
        text = rf"program: tensor \S*table: constant {key}: its bytes have the hash [0-9a-f]{{32}}; the file is damaged"
        assert re.search(text, capfd.readouterr().err) is not None
    torch.testing.assert_close(load(data), Table().table)

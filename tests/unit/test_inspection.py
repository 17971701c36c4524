"""inspect(): the Programs and constants of a .pte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import xxhash

from tests.e2e.models import Activations, Linears, Weights
from tests.e2e.running import export, lower
from zeropoint import ProgramError, inspect
from zeropoint.export import inspection
from zeropoint.program.io import read_program


def test_programs_and_constants(tmp_path: Path) -> None:
    model = Linears(32, Activations(), (Weights(n=8, group_size=32, bias=True),))
    pte, _ = lower(export(model, torch.randn(2, 32)))
    path = tmp_path / "m.pte"
    path.write_bytes(pte)
    found = inspect(path)
    assert found == inspect(pte)
    (delegate,) = found.delegates
    assert (delegate.method, delegate.index) == ("forward", 0)
    keys = {tensor.constant for tensor in found.programs[0].tensors if tensor.constant}
    assert keys == set(found.constants)
    assert all(xxhash.xxh3_128_hexdigest(data) == key for key, data in found.constants.items())
    sizes = {tensor.constant: tensor.size_bytes for tensor in found.programs[0].tensors}
    assert all(len(data) == sizes[key] for key, data in found.constants.items())
    assert str(found).startswith("forward delegate 0\nprogram version 4, arena ")


def test_constants_are_read_and_compared_with_their_keys() -> None:
    pte, _ = lower(export(Linears(32, Activations(), (Weights(n=8, group_size=32),)), torch.randn(2, 32)))
    inspect(pte).check_constants()
    for key, data in inspect(pte).constants.items():
        damaged = bytearray(pte)
        damaged[pte.index(bytes(data))] ^= 1
        with pytest.raises(
            ProgramError, match=rf"^forward delegate 0: constant \S+: .* its key {key}; the file is damaged$"
        ):
            inspect(bytes(damaged)).check_constants()


def test_constants_are_compared_by_one_reading_of_each_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reading for each constant takes minutes for a model of thirty layers."""
    weights = tuple(Weights(n=8, group_size=32, bias=True) for _ in range(3))
    found = inspect(lower(export(Linears(32, Activations(), weights), torch.randn(2, 32)))[0])
    readings = []
    monkeypatch.setattr(inspection, "read_program", lambda blob: readings.append(blob) or read_program(blob))
    found.check_constants()
    assert readings == [item.blob for item in found.delegates]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(ProgramError, match=r"m\.pte: identifier b' a z'; need an ExecuTorch \.pte file$"):
        inspect(path)
    with pytest.raises(ProgramError, match=r"^the bytes: identifier b''; need"):
        inspect(b"")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused(kept: float) -> None:
    pte, _ = lower(export(Linears(32, Activations(), (Weights(n=8, group_size=32),)), torch.randn(2, 32)))
    with pytest.raises(ProgramError, match=r"^the bytes: \d+ bytes; need \d+; export it again$"):
        inspect(pte[: int(kept * len(pte))])

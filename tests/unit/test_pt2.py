"""Programs in a .pt2 are read without running anything in the file."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from zeropoint import OptionError, quantize
from zeropoint.export.pt2 import _is_size, load_exported


class Marker:
    """Harmless: whoever unpickles it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized model with a size that varies, whose weight is a pickled tensor of a subclass."""
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    model = quantize(nn.Sequential(nn.Linear(64, 32), nn.ReLU()))
    shapes = ({0: torch.export.Dim("n", min=1, max=9) * 2},)
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(model.eval(), (torch.randn(4, 64),), dynamic_shapes=shapes), path)
    return path


def rewritten(saved: Path, path: Path, change: Callable[[str, bytes], bytes], **more: bytes) -> Path:
    """A copy of the archive with its files changed by name, and with more files."""
    with zipfile.ZipFile(saved) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))
        for name, data in more.items():
            after.writestr(f"model/{name}", data)
    return path


def test_a_quantized_program_is_read(saved: Path) -> None:
    targets = [str(node.target) for node in load_exported(saved).graph.nodes]
    assert "torchao.choose_qparams_affine.default" in targets


@pytest.mark.parametrize("name", ["data/sample_inputs/model.pt", "data/weights/weight_0"])
def test_a_pickle_is_not_run(name: str, saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    buffer = io.BytesIO()
    torch.save({"0": Marker(marker)}, buffer)

    def change(own: str, data: bytes) -> bytes:
        return buffer.getvalue() if own.endswith(name) else data

    path = rewritten(saved, tmp_path / "changed.pt2", change)
    with pytest.raises(OptionError, match=r"changed\.pt2: a pickle with more than tensors in it is not loaded \("):
        load_exported(path)
    assert not marker.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert marker.exists()  # it would have been


def test_an_object_is_not_unpickled(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    config = {"config": {"thing": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}}}

    def change(name: str, data: bytes) -> bytes:
        return json.dumps(config).encode() if name.endswith("constants_config.json") else data

    path = rewritten(saved, tmp_path / "a.pt2", change)
    with pytest.raises(OptionError, match="constant thing is an object; it is not loaded, as that may run code"):
        load_exported(path)
    objects = {"data/constants/opaque_obj_0": pickle.dumps(Marker(marker))}
    with pytest.raises(OptionError, match="data/constants/opaque_obj_0 is no tensor and no graph; it is not loaded"):
        load_exported(rewritten(saved, tmp_path / "b.pt2", lambda name, data: data, **objects))
    assert not marker.exists()


def test_compiled_code_and_files_of_one_name_are_refused(saved: Path, tmp_path: Path) -> None:
    compiled = {"data/aotinductor/model/model.so": b"\x7fELF"}
    with pytest.raises(OptionError, match=r"data/aotinductor/model/model\.so is no tensor and no graph"):
        load_exported(rewritten(saved, tmp_path / "a.pt2", lambda name, data: data, **compiled))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = rewritten(saved, tmp_path / "b.pt2", lambda name, data: data, **{"models/model.json": b"{}"})
    with pytest.raises(OptionError, match="two files of one name; it is not loaded"):
        load_exported(twice)


def test_a_size_that_is_python_is_refused(saved: Path, tmp_path: Path) -> None:
    """PyTorch evaluates it."""
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w')"

    def change(name: str, data: bytes) -> bytes:
        return data.replace(
            b'"expr_str":"Mul', json.dumps(code)[1:-1].encode().join([b'"expr_str":"', b'","was":"Mul'])
        )

    changed = rewritten(saved, tmp_path / "a.pt2", lambda name, data: change(name, data.replace(b'": ', b'":')))
    with pytest.raises(OptionError, match=r"the size \"open\(.* is no arithmetic; it is not loaded"):
        load_exported(changed)
    assert not marker.exists()


def test_an_operator_from_elsewhere_is_refused(saved: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        return data.replace(b"torch.ops.aten.relu.default", b"torch.hub.load")

    with pytest.raises(OptionError, match=r"'torch\.hub\.load' is no operator; it is not loaded"):
        load_exported(rewritten(saved, tmp_path / "a.pt2", change))


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Symbol('s31', positive=True, integer=True)", True),
        ("Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(-1))", True),
        ("FloorDiv(s0, 2) + 3*u1", True),
        ("Float('1.5', precision=53)", True),
        ("__import__('os')", False),
        ("Symbol('s0').__class__", False),
        ("Add('exec(1)', Integer(1))", False),
        ("[x for x in (1,)]", False),
        ("(lambda: 1)()", False),
        ("exec", False),
        ("print(1)", False),
        ("1 +", False),
    ],
)
def test_sizes(text: str, safe: bool) -> None:
    assert _is_size(text) is safe


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.pt2: no such file; write one with torch\.export\.save"):
        load_exported(tmp_path / "none.pt2")
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(OptionError, match=r"text\.pt2: not a \.pt2 archive"):
        load_exported(tmp_path / "text.pt2")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "1.0")
    with pytest.raises(OptionError, match=r"old\.pt2: version is no tensor and no graph"):
        load_exported(tmp_path / "old.pt2")

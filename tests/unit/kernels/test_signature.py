"""Signatures: what the manifests say, and that a call which says anything else fails where it is made."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import zeropoint
from tests.e2e.running import export, lower
from tests.op.values import dense_rows
from zeropoint import ProgramBuilder, ProgramError
from zeropoint.errors import ManifestError
from zeropoint.kernels._generated import signatures
from zeropoint.kernels._generated.signatures import SIGNATURES, GateOp
from zeropoint.kernels.generate import write_signatures
from zeropoint.kernels.manifest_reader import load_manifests
from zeropoint.kernels.signature import Signature
from zeropoint.lowering.lowering import Lowering

ROOT = Path(__file__).parents[3]
MANIFESTS = load_manifests(ROOT / "shaders")
NORM = {"eps": 1e-6, "weight_offset": 0.0, **dense_rows(8)}


def test_the_imported_module_is_what_the_manifests_give(tmp_path: Path) -> None:
    made = write_signatures(ROOT / "shaders", tmp_path).read_text()
    assert made == Path(signatures.__file__).read_text()
    for manifest in MANIFESTS:
        slots = tuple(replace(slot, view=None, views=(), atomic=False) for slot in manifest.slots)
        assert replace(Signature.of(manifest), slots=slots) == SIGNATURES[manifest.name]
    assert GateOp.SIGMOID == SIGNATURES["quantize_rows"].members["GateOp"].index("SIGMOID")


def test_it_is_importable_without_torch() -> None:
    source = "import sys, zeropoint.kernels._generated.signatures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", source], check=True)


def test_lists_of_one_name_must_agree(tmp_path: Path) -> None:
    for kernel, operators in (("one", '["A", "B"]'), ("two", '["B", "A"]')):
        (tmp_path / f"{kernel}.comp").write_text("")
        (tmp_path / f"{kernel}.toml").write_text(f"""
doc = ""
slots.y = {{ io = "out", dtype = ["f32"], storage = ["buffer"] }}
attrs.op = "Op"
operators.Op = {operators}
[[algorithm]]
name = "only"
grid = ["1", "1", "1"]
""")
    with pytest.raises(ManifestError, match=r"^two\.toml: operators\.Op: another manifest has other ones$"):
        write_signatures(tmp_path, tmp_path / "made")


def call(
    args: Mapping[str, str] | None = None, attrs: Mapping[str, int | float] | None = None, kernel: str = "rms_norm"
) -> None:
    """One call. args: by slot a dtype, or image for f32 in an image."""
    b = ProgramBuilder()
    tensors = {
        slot: b.tensor(slot, "f32", [2, 8], storage="image") if kind == "image" else b.tensor(slot, kind, [2, 8])
        for slot, kind in ({"x": "f32", "weight": "f32", "y": "f32"} if args is None else args).items()
    }
    b.call(kernel, tensors, NORM if attrs is None else attrs)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: call(kernel="rms_nrom"), "rms_nrom: no kernel 'rms_nrom'; offered arange, "),
        (lambda: call({"x": "f32", "weigth": "f32", "y": "f32"}),
         "rms_norm: slot weigth: no such slot; offered x, weight, y"),
        (lambda: call({"x": "f32", "weight": "f32"}), "rms_norm: slot y: not bound; bound are x, weight"),
        (lambda: call({"weight": "f32", "y": "f32"}), "rms_norm: slot x: not bound; bound are weight, y"),
        (lambda: call({"x": "i32", "y": "f32"}), "rms_norm: slot x: i32 in buffer; offered f32, f16 in buffer"),
        (lambda: call({"x": "image", "y": "f32"}), "rms_norm: slot x: f32 in image; offered f32, f16 in buffer"),
        (lambda: call({"x": "f32", "y": "f16"}), "rms_norm: no variant for x f32 in buffer, y f16 in buffer; need "),
        (lambda: call(attrs={**NORM, "epsilon": 1.0}),
         "rms_norm: attribute epsilon: no such attribute; offered eps, weight_offset, row_length, "),
        (lambda: call(attrs=dense_rows(8)), "rms_norm: attribute eps: missing; given are row_length, "),
        (lambda: call(attrs={**NORM, "eps": 1}), "rms_norm: attribute eps: 1; need float"),
        (lambda: call(attrs={**NORM, "row_length": 8.0}), "rms_norm: attribute row_length: 8.0; need int"),
        (lambda: call({"x": "f32", "y": "f32"}, {"op": 4, **dense_rows(8)}, "reduce_rows"),
         "reduce_rows: attribute op: 4; offered 0 to 3"),
    ],
)  # fmt: skip
def test_a_call_that_no_variant_takes(make: Callable[[], None], text: str) -> None:
    with pytest.raises(ProgramError) as refused:
        make()
    assert str(refused.value).startswith(text)


def test_a_call_that_is_right() -> None:
    call()
    call({"x": "f32", "y": "f32"})


@pytest.mark.parametrize(
    ("slots", "attrs", "text"),
    [
        ({"x": "in"}, {}, "slot in: no such slot; offered x, y"),
        ({}, {"row_length": "length"}, "attribute length: no such attribute; offered logarithm, row_length, "),
    ],
)
def test_a_misspelt_rule_fails_at_export(
    slots: dict[str, str], attrs: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no reason to leave the node on the CPU."""
    right = Lowering.call

    def misspelt(self: Lowering, kernel: str, args: dict[str, int], values: dict[str, int], **rest: object) -> None:
        args = {slots.get(name, name): tensor for name, tensor in args.items()}
        right(self, kernel, args, {attrs.get(name, name): value for name, value in values.items()}, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Lowering, "call", misspelt)
    with pytest.raises(ProgramError, match=f"^softmax_rows: {text}"):
        lower(export(torch.nn.Softmax(-1), torch.randn(3, 16)))


def test_what_a_call_writes_is_the_manifest_s() -> None:
    """A cache that only its io says is written is kept."""
    b = ProgramBuilder()
    x, faults, y = b.tensor("x", "i32", [4]), b.faults(), b.tensor("y", "i32", [4])
    b.input(x)
    sizes = {f"size{axis}": 4 if axis == 3 else 1 for axis in range(4)}
    places = {"x_offset": 0, **{f"x_stride{axis}": int(axis == 3) for axis in range(4)}}
    bounds = {"low": 0, "high": 3, "wrap": 0, "outside": 0, "call": 0}
    b.call("check_index", {"y": y, "faults": faults, "x": x}, {**sizes, **places, **bounds})
    b.output(y)
    ((made, writes),) = b.made_calls()
    assert writes == {"y", "faults"}
    assert [arg.slot for arg in made.args] == ["x", "y", "faults"]


def assignments() -> Iterator[tuple[str, str, int]]:
    """File, name and value of every constant integer that a module or a class of the package gives a name."""
    package = Path(zeropoint.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if "_generated" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                for name, value in pairs:
                    if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and type(value.value) is int:
                        yield str(path.relative_to(package)), name.id.lstrip("_"), value.value


# What a module that speaks of kernels calls by a number of some manifest and is none of it, with what it is.
OWN_NUMBERS = {
    ("fusion/rope_attention.py", "WORKGROUPS"): "a choice: any number is right",
    ("lowering/packing.py", "CHUNK"): "the layout of packed weights, of docs/design.md",
    ("lowering/packing.py", "STEP_COST"): "a choice: any number is right",
    ("lowering/tables.py", "ALIGN"): "a choice: pieces of any width are right",
    (
        "lowering/view.py",
        "QUAD",
    ): "of slots that are read as vectors, which no signature says; kernels check it by attributes",
    ("rules/attention/calls.py", "FEW_QUERIES"): "a choice: the kernel takes any number",
    ("rules/attention/calls.py", "LONG_CACHE"): "a choice: any number is right",
    ("rules/attention/calls.py", "WORKGROUPS"): "a choice: any number is right",
    ("rules/rotary/rotations.py", "RANK"): "of a graph's heads",
    ("rules/rotary/tables.py", "DEPTH"): "of a search in a graph",
}
ROOMS = ("rules", "fusion", "lowering", "references")


def repeated(found: Iterator[tuple[str, str, int]]) -> list[str]:
    """Where a manifest's constant is typed again: by its name, by a value that is nobody else's, or, in a room that
    speaks of kernels, by any value but 1 and 2."""
    constants = {item for manifest in MANIFESTS for item in manifest.macros()}
    names, large = {name for name, _ in constants}, {value for _, value in constants if value > 256}
    small = {
        value
        for item in MANIFESTS
        for source in (item.constants, *(a.defines for a in item.algorithms))
        for _, value in source
    }
    members = {(member, i) for item in SIGNATURES.values() for m in item.members.values() for i, member in enumerate(m)}
    return [
        f"{path}: {name} = {value}"
        for path, name, value in found
        if name in names
        or value in large
        or (name, value) in members
        or (path.split("/")[0] in ROOMS and value in small - {1, 2} and (path, name) not in OWN_NUMBERS)
    ]


def test_no_python_file_repeats_a_manifest() -> None:
    assert repeated(assignments()) == []
    typed = [("a.py", "MAX_K", 7), ("b.py", "LONGEST", 16384), ("c.py", "GELU", 1), ("rules/d.py", "MANY", 64)]
    assert repeated(iter(typed)) == [
        "a.py: MAX_K = 7",
        "b.py: LONGEST = 16384",
        "c.py: GELU = 1",
        "rules/d.py: MANY = 64",
    ]
    assert OWN_NUMBERS.keys() <= {(path, name) for path, name, _ in assignments()}
    rules = [path.read_text() for path in (Path(zeropoint.__file__).parent / "rules").rglob("*.py")]
    assert not any("writes=" in text or ".toml" in text for text in rules)

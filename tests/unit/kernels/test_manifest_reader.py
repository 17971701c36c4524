"""Manifests: read whole, or refused with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeropoint.errors import ManifestError
from zeropoint.kernels.build import plan
from zeropoint.kernels.dtypes import DType, Storage
from zeropoint.kernels.expr import Op, OpCode
from zeropoint.kernels.manifest import AttrDecl, Io, ValueKind
from zeropoint.kernels.manifest_reader import load_manifest, load_manifests
from zeropoint.kernels.prelude import prelude

from .tiny import MANIFEST, replaced, write_tree


def load(tmp_path: Path, *changes: tuple[str, str]) -> object:
    return load_manifest(write_tree(tmp_path, manifest=replaced(MANIFEST, *changes)) / "tiny.toml")


def test_everything_is_read(tmp_path: Path) -> None:
    manifest = load_manifest(write_tree(tmp_path) / "tiny.toml")
    assert (manifest.name, manifest.doc) == ("tiny", "y = x * eps - zp + bias")
    assert [slot.name for slot in manifest.slots] == ["x", "zp", "bias", "y"]
    zp, bias, y = manifest.slots[1:]
    assert zp.dtypes == (DType.I8, DType.I32, DType.F16, DType.F32)
    assert zp.storages == (Storage.BUFFER, Storage.IMAGE)
    assert (zp.io, zp.optional, zp.view) == (Io.IN, False, None)
    assert (bias.optional, y.io) == (True, Io.OUT)
    assert manifest.attrs == (AttrDecl("eps", ValueKind.FLOAT), AttrDecl("step", ValueKind.INT))
    assert manifest.constants == (("LANES", 64),)
    (algorithm,) = manifest.algorithms
    assert (algorithm.name, algorithm.source) == ("only", tmp_path / "tiny.comp")
    assert algorithm.when is not None
    assert algorithm.when.text == "rows(x) <= 8"
    assert algorithm.grid[0].ops[1] == Op(OpCode.PUSH, value=64)
    assert [spec.name for spec in algorithm.specs] == ["STEP"]
    assert [(push.name, push.value is None, push.attr) for push in algorithm.pushes] == [
        ("n", False, ""),
        ("eps", True, "eps"),
    ]


def test_defines_are_constants_of_their_algorithm(tmp_path: Path) -> None:
    shaders = write_tree(
        tmp_path,
        manifest=replaced(
            MANIFEST, ('when = "rows(x) <= 8"', "defines = { TILE = 3 }"), ('"1", "1"]', '"TILE * 2", "1"]')
        ),
    )
    (algorithm,) = load_manifest(shaders / "tiny.toml").algorithms
    assert algorithm.defines == (("TILE", 3),)
    assert algorithm.grid[1].ops == (Op(OpCode.PUSH, value=6),)


def test_source_and_view(tmp_path: Path) -> None:
    (tmp_path / "other.comp").write_text("")
    shaders = write_tree(
        tmp_path,
        manifest=replaced(
            MANIFEST,
            ('name = "only"', 'name = "only"\nsource = "other.comp"'),
            ('x = { io = "in", dtype = ["f32"]', 'x = { io = "in", view = "u32x4", dtype = ["i4"]'),
        ),
    )
    manifest = load_manifest(shaders / "tiny.toml")
    assert manifest.algorithms[0].source == tmp_path / "other.comp"
    assert manifest.slots[0].view == "u32x4"


def test_views_by_dtype(tmp_path: Path) -> None:
    shaders = write_tree(
        tmp_path,
        manifest=replaced(
            MANIFEST,
            (
                'x = { io = "in", dtype = ["f32"]',
                'x = { io = "in", view = { f32 = "f32x4", i4 = "u32" }, dtype = ["f32", "f16", "i4"]',
            ),
        ),
    )
    x = load_manifest(shaders / "tiny.toml").slots[0]
    assert [x.element(dtype) for dtype in x.dtypes] == ["f32x4", "f16", "u32"]


def test_unrolling_is_asked_for(tmp_path: Path) -> None:
    asks = replaced(MANIFEST, ('name = "only"', 'name = "only"\nunroll = true'))
    (algorithm,) = load_manifest(write_tree(tmp_path, manifest=asks) / "tiny.toml").algorithms
    assert algorithm.unroll
    (algorithm,) = load_manifest(write_tree(tmp_path) / "tiny.toml").algorithms
    assert not algorithm.unroll


@pytest.mark.parametrize(
    ("iterations", "when"),
    [
        (
            "dim(x,0) // LANES",
            "(rows(x) <= 8) and (dim(x,0) // LANES) <= device.max_loop_iterations "
            "(llvmpipe before Mesa 25 ends longer loops early)",
        ),
        ("LANES * 2", "rows(x) <= 8"),  # on every driver
    ],
)
def test_iterations_are_part_of_the_guard(tmp_path: Path, iterations: str, when: str) -> None:
    says = replaced(MANIFEST, ('name = "only"', f'name = "only"\niterations = "{iterations}"'))
    (algorithm,) = load_manifest(write_tree(tmp_path, manifest=says) / "tiny.toml").algorithms
    assert algorithm.when is not None
    assert algorithm.when.text == when


def test_turns_are_the_last_push_constants(tmp_path: Path) -> None:
    (algorithm,) = load(tmp_path, ('name = "only"', 'name = "only"\nahead = ["zp"]')).algorithms
    assert algorithm.ahead == ("zp",)
    assert [push.name for push in algorithm.pushes] == ["n", "eps", "turn", "awaited"]
    (other,) = load(tmp_path).algorithms
    assert other.ahead is None


def test_operators_are_numbered_macros(tmp_path: Path) -> None:
    manifest = load_manifest(write_tree(tmp_path, manifest=replaced(MANIFEST, CHOSEN, OPERATORS)) / "tiny.toml")
    assert manifest.macros() == (("LANES", 64), ("STEP_SILU", 0), ("STEP_RELU", 1))
    (prelude_of,) = {prelude(job.manifest, job.algorithm, job.key).macros[-2:] for job in plan((manifest,))}
    assert prelude_of == (("STEP_SILU", "0"), ("STEP_RELU", "1"))


def test_operators_of_another_manifest(tmp_path: Path) -> None:
    write_tree(tmp_path, name="first", manifest=replaced(MANIFEST, CHOSEN, OPERATORS))
    other = replaced(MANIFEST, CHOSEN, ("[constants]", '[operators]\nGate = "first"\n[constants]'))
    write_tree(tmp_path, name="second", manifest=other)
    one, two = load_manifests(tmp_path)
    assert one.operators == two.operators
    write_tree(tmp_path, name="second", manifest=other.replace('"first"', '"third"'))
    with pytest.raises(ManifestError, match=r"^third\.toml: .*No such file"):
        load_manifests(tmp_path)


def test_an_algorithm_has_the_defaults_that_it_does_not_override(tmp_path: Path) -> None:
    text = replaced(
        MANIFEST,
        ("[slots]", 'aliases = ["older"]\ngrid = "numel(x)"\npush = { n = "1" }\n[slots]'),
        ("[constants]", '[spec]\nSTEP = "2"\n[constants]'),
        ('spec = { STEP = "attr(step)" }\n', ""),
    )
    text += '[[algorithm]]\nname = "plain"\nsource = "other.comp"\n'
    write_tree(tmp_path, name="other")
    manifest = load_manifest(write_tree(tmp_path, manifest=text) / "tiny.toml")
    only, plain = manifest.algorithms
    assert [push.name for push in only.pushes] == ["n", "eps"]
    assert [(push.name, push.value and push.value.text) for push in plain.pushes] == [("n", "1")]
    assert [spec.value.text for spec in (*only.specs, *plain.specs)] == ["2", "2"]
    assert only.grid[0].text == "ceil_div(numel(x), LANES)"
    assert [part.text for part in plain.grid] == ["min(numel(x), GRID_FOLD)", "ceil_div(numel(x), GRID_FOLD)", "1"]
    assert (only.source.name, plain.source.name, manifest.aliases) == ("tiny.comp", "other.comp", ("older",))


def test_attributes_that_are_several(tmp_path: Path) -> None:
    text = replaced(MANIFEST, ('step = "int"', 'stride = "int[3]"'), ('n = "numel(x)"', 'at = "attr(stride)"'))
    manifest = load_manifest(write_tree(tmp_path, manifest=text.replace("attr(step)", "attr(stride1)")) / "tiny.toml")
    names = ["stride0", "stride1", "stride2"]
    assert [attr.name for attr in manifest.attrs] == ["eps", *names]
    (only,) = manifest.algorithms
    assert [push.name for push in only.pushes] == ["at0", "at1", "at2", "eps"]
    assert [push.value.text for push in only.pushes if push.value] == [f"attr({name})" for name in names]


def test_found_by_sorted_glob(tmp_path: Path) -> None:
    for name in ("b_kernel", "a_kernel"):
        write_tree(tmp_path, name=name)
    assert [manifest.name for manifest in load_manifests(tmp_path)] == ["a_kernel", "b_kernel"]


@pytest.mark.parametrize("alias", ["first", "older"])
def test_an_alias_is_of_one_kernel(alias: str, tmp_path: Path) -> None:
    write_tree(tmp_path, name="first", manifest='aliases = ["older"]' + MANIFEST)
    write_tree(tmp_path, name="second", manifest=f'aliases = ["{alias}"]' + MANIFEST)
    with pytest.raises(ManifestError, match=rf"^second\.toml: aliases: '{alias}' is another kernel's$"):
        load_manifests(tmp_path)


def test_no_manifests(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no manifests \(\*\.toml\) found; name the folder of the shaders"):
        load_manifests(tmp_path)


PUSH_33 = ", ".join(f'p{i} = "1"' for i in range(33))
SLOTS_33 = "\n".join(f's{i} = {{ io = "in", dtype = ["f32"], storage = ["buffer"] }}' for i in range(33))
OPERATORS = ("[constants]", '[operators]\nGate = ["SILU", "RELU"]\n[constants]')
CHOSEN = ('step = "int"', 'step = "Gate"')
X = 'x = { io = "in", dtype = ["f32"], storage = ["buffer"] }'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("[attrs]", "[attrs")], "tiny.toml: Expected ']' at the end of a table declaration"),
        ([("[attrs]\n", "[attrs]\neps = 'int'\n")], "tiny.toml: Cannot overwrite a value"),
        (
            [("[attrs]", "[atrs]")],
            "manifest: unknown key 'atrs'; offered doc, aliases, where, source, grid",
        ),
        ([('doc = "y = x * eps - zp + bias"', "")], "doc: missing; need text"),
        ([('doc = "y = x * eps - zp + bias"', "doc = 3")], "doc: 3; need text"),
        ([("[slots]", "[slot]")], "manifest: unknown key 'slot'; offered"),
        ([("[slots]", "filter = []\n[slots]")], "manifest: unknown key 'filter'; offered doc, aliases, where"),
        ([(X, "x = 3")], "slots.x: 3; need a table"),
        ([(X, X.replace("io =", "direction ="))], "slots.x: unknown key 'direction'; offered io, dtype, storage"),
        ([(X, X.replace('io = "in", ', ""))], "slots.x.io: missing; need text"),
        ([(X, X.replace('"in"', '"both"'))], "slots.x.io: 'both'; offered in, out, inout"),
        ([(X, X.replace('["f32"]', '"f32"'))], "slots.x.dtype: 'f32'; need a list"),
        ([(X, X.replace('["f32"]', "[]"))], "slots.x.dtype: an empty list; name at least one"),
        ([(X, X.replace('["f32"]', '["f64"]'))], "slots.x.dtype: 'f64'; offered f32, f16, i32, i8, u8, i4"),
        ([(X, X.replace('["f32"]', '["none"]'))], "slots.x.dtype: 'none' is not declared; write optional = true"),
        ([(X, X.replace('["f32"]', '["f32", "f32"]'))], "slots.x.dtype: 'f32' occurs twice"),
        ([(X, X.replace('["buffer"]', '["texture"]'))], "slots.x.storage: 'texture'; offered buffer, image"),
        ([(X, X.replace("io =", "optional = 1, io ="))], "slots.x.optional: 1; need true or false"),
        ([(X, X.replace("io =", "view = 'u64', io ="))], "slots.x.view: 'u64'; offered f32, f32x2, f32x4, f16"),
        ([(X, X.replace("io =", "view = 3, io ="))], "slots.x.view: 3; need text"),
        ([(X, X.replace("io =", "view = { f16 = 'u32' }, io ="))], "slots.x.view: unknown key 'f16'; offered f32"),
        ([(X, X.replace("io =", "view = { f32 = 'u64' }, io ="))], "slots.x.view.f32: 'u64'; offered f32, f32x2"),
        ([(X, X.replace('["f32"]', '["i4"]'))], "slots.x.dtype: i4 has no GLSL type; give the slot a view"),
        ([(X, X.replace('"f32"], storage = ["buffer"', '"u8"], storage = ["image"'))], "slots.x.dtype: u8 in an image"),
        (
            [(X, X.replace('storage = ["buffer"]', 'storage = ["buffer", "image"], view = "u32"'))],
            "slots.x.view: only a buffer has a view; an image's format says what it is",
        ),
        ([(X, X.replace("x =", "X ="))], "slots.X: 'X' is not a name here; need [a-z][a-z0-9_]*"),
        ([(X, f"{X}\n{SLOTS_33}")], "slots: 37 slots; need 1 to 32"),
        ([('eps = "float"', 'eps = "real"')], "attrs.eps: 'real'; offered int, int[<count>], float"),
        ([('eps = "float"', 'Eps = "float"')], "attrs.Eps: 'Eps' is not a name here"),
        ([('step = "int"', 'step = "Op"'), OPERATORS], "attrs.step: 'Op'; offered int, int[<count>], float, Gate"),
        ([OPERATORS], "operators.Gate: no attribute chooses from it"),
        ([CHOSEN, (OPERATORS[0], OPERATORS[1].replace("SILU", "silu"))], "operators.Gate: 'silu' is not a name here"),
        ([CHOSEN, (OPERATORS[0], OPERATORS[1].replace("RELU", "SILU"))], "operators.Gate: 'SILU' occurs twice"),
        ([CHOSEN, ("[constants]", "[operators]\nGate = 3\n[constants]")], "operators.Gate: 3; need a list"),
        ([("[constants]", "[operators]\ngate = []\n[constants]")], "operators: 'gate' is not a name here; need [A-Z]"),
        ([('step = "int"', 'step = "int[0]"')], "attrs.step: 'int[0]'; offered int, int[<count>], float"),
        ([('step = "int"', 'step0 = "int"\nstep = "int[2]"')], "attrs: 'step0' occurs twice"),
        ([("[slots]", 'grid = "1"\n[slots]')], "grid: every algorithm has its own"),
        ([("[slots]", "aliases = [3]\n[slots]")], "aliases: 3; need text"),
        (
            [("[slots]", 'grid = "q"\n[slots]'), ('grid = ["ceil_div(numel(x), LANES)", "1", "1"]\n', "")],
            "algorithm.only.grid: expression 'q': 'q' is no constant",
        ),
        ([('name = "only"', 'name = "only"\nunroll = 1')], "algorithm.only.unroll: 1; need true or false"),
        ([("LANES = 64", "LANES = true")], "constants.LANES: True; need an integer"),
        ([("LANES = 64", 'LANES = "64"')], "constants.LANES: '64'; need an integer"),
        ([("LANES = 64", "LANES = 64\nlanes = 1")], "constants.lanes: 'lanes' is not a name here"),
        (
            [("LANES = 64", "LANES = 64\nZP_TYPE = 1")],
            "constants.ZP_TYPE: is a macro that the build defines for a slot",
        ),
        ([("[slots]", "where = [3]\n[slots]")], "where[0]: 3; need text"),
        (
            [("[slots]", "where = ['dtype(q) == 1']\n[slots]")],
            "where[0]: expression 'dtype(q) == 1': 'q' is no slot",
        ),
        ([('name = "only"\n', "")], "algorithm[0].name: missing; need text"),
        ([('name = "only"', 'name = "only"\nguard = "1"')], "algorithm[0]: unknown key 'guard'; offered name, source"),
        ([('name = "only"', 'name = "Only"')], "algorithm[0].name: 'Only' is not a name here"),
        (
            [("[[algorithm]]", '[[algorithm]]\nname = "only"\ngrid = ["1", "1", "1"]\n[[algorithm]]')],
            "algorithm: 'only' occurs twice",
        ),
        (
            [('name = "only"', 'name = "only"\nsource = "no.comp"')],
            "algorithm.only.source: 'no.comp' does not exist in",
        ),
        ([('name = "only"', 'name = "only"\nsource = "../a.comp"')], "'../a.comp' leaves the folder of the shaders"),
        (
            [('name = "only"', 'name = "only"\nsource = "/etc/passwd"')],
            "'/etc/passwd' leaves the folder of the shaders",
        ),
        ([('name = "only"', 'name = "only"\ndefines = { LANES = 1 }')], "defines.LANES: is also in [constants]"),
        ([('name = "only"', 'name = "only"\ndefines = { X_BINDING = 1 }')], "defines.X_BINDING: is a macro that the"),
        ([('name = "only"', 'name = "only"\ndefines = { TILE = "4" }')], "defines.TILE: '4'; need an integer"),
        ([(', "1", "1"]', ', "1"]')], "algorithm.only.grid: 2 expressions; need 3, or one text"),
        ([(', "1", "1"]', ', "1", 1]')], "algorithm.only.grid[2]: 1; need text"),
        ([(', "1", "1"]', ', "1", "q"]')], "algorithm.only.grid[2]: expression 'q': 'q' is no constant"),
        ([('when = "rows(x) <= 8"', 'when = "rows(q)"')], "algorithm.only.when: expression 'rows(q)': 'q' is no slot"),
        ([("STEP =", "step =")], "algorithm.only.spec.step: 'step' is not a name here; need [A-Z][A-Z0-9_]*"),
        ([('"attr(step)"', '"attr(eps)"')], "algorithm.only.spec.STEP: expression 'attr(eps)': attribute eps is a"),
        ([('"numel(x)"', '"attr(eps) * 2"')], "algorithm.only.push.n: expression 'attr(eps) * 2': attribute eps is a"),
        ([('"numel(x)"', "4")], "algorithm.only.push.n: 4; need text"),
        ([('n = "numel(x)"', 'N = "numel(x)"')], "algorithm.only.push.N: 'N' is not a name here"),
        (
            [('name = "only"', 'name = "only"\niterations = "50001"')],
            "algorithm.only.when: 50001 iterations; at most 50000",
        ),
        (
            [('name = "only"', 'name = "only"\niterations = "q"')],
            "algorithm.only.iterations: expression 'q': 'q' is no",
        ),
        ([('name = "only"', 'name = "only"\nahead = "x"')], "algorithm.only.ahead: 'x'; need a list"),
        ([('name = "only"', 'name = "only"\nahead = [1]')], "algorithm.only.ahead: 1; need text"),
        (
            [('name = "only"', 'name = "only"\nahead = ["y"]')],
            "algorithm.only.ahead: 'y'; slots that are read: x, zp, bias",
        ),
        ([('name = "only"', 'name = "only"\nahead = ["x", "x"]')], "algorithm.only.ahead: 'x' occurs twice"),
        (
            [('name = "only"', 'name = "only"\nahead = []'), ('{ n = "num', '{ turn = "num')],
            "algorithm.only.push.turn: is the turns', which `ahead` adds; choose another name",
        ),
        ([('n = "numel(x)"', PUSH_33)], "algorithm.only.push: 136 bytes of push constants; at most 128"),
    ],
)
def test_refused(tmp_path: Path, changes: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ManifestError) as error:
        load(tmp_path, *changes)
    assert str(error.value).startswith("tiny.toml: ")
    assert message in str(error.value)


def test_no_algorithm(tmp_path: Path) -> None:
    manifest = MANIFEST[: MANIFEST.index("[[algorithm]]")]
    with pytest.raises(ManifestError, match=r"^tiny\.toml: algorithm: missing; need a list$"):
        load_manifest(write_tree(tmp_path, manifest=manifest) / "tiny.toml")
    with pytest.raises(ManifestError, match=r"^tiny\.toml: algorithm: none; need at least one \[\[algorithm\]\]$"):
        load_manifest(write_tree(tmp_path, manifest=f"algorithm = []\n{manifest}") / "tiny.toml")


def test_no_slots(tmp_path: Path) -> None:
    manifest = 'doc = ""\n[slots]\n[[algorithm]]\nname = "a"\ngrid = ["1", "1", "1"]\n'
    with pytest.raises(ManifestError, match=r"^tiny\.toml: slots: 0 slots; need 1 to 32$"):
        load_manifest(write_tree(tmp_path, manifest=manifest) / "tiny.toml")


def test_name_of_the_file(tmp_path: Path) -> None:
    shaders = write_tree(tmp_path, name="Tiny")
    with pytest.raises(ManifestError, match=r"^Tiny\.toml: kernel name: 'Tiny' is not a name here"):
        load_manifest(shaders / "Tiny.toml")


def test_missing_source(tmp_path: Path) -> None:
    shaders = write_tree(tmp_path)
    (shaders / "tiny.comp").unlink()
    with pytest.raises(ManifestError, match=r"algorithm\.only\.source: 'tiny\.comp' does not exist in "):
        load_manifest(shaders / "tiny.toml")


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_bytes(b"\xff")
    with pytest.raises(ManifestError, match=r"^tiny\.toml: 'utf-8' codec can't decode"):
        load_manifest(tmp_path / "tiny.toml")

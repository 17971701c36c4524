"""A shader that contradicts its key or its manifest does not build; the error says what is declared and found."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeropoint.errors import ShaderError

from .tiny import compile_tiny

GLSL = {"i8": "int8_t", "i32": "int", "f16": "float16_t", "f32": "float"}
EXTENSION = {
    "i8": "#extension GL_EXT_shader_8bit_storage : require\n",
    "f16": "#extension GL_EXT_shader_16bit_storage : require\n",
}
FORMATS = {"i8": "rgba8i", "i32": "rgba32i", "f16": "rgba16f", "f32": "rgba32f"}
SAMPLED = {"i8": "i32", "i32": "i32", "f16": "f32", "f32": "f32"}
IMAGES = {"i8": "iimage2D", "i32": "iimage2D", "f16": "image2D", "f32": "image2D"}
LIES = [(said, done) for said in GLSL for done in GLSL if said != done]
IMAGE_LINE = "layout(binding = ZP_BINDING, ZP_FORMAT) uniform readonly ZP_IMAGE_TYPE zp;"
X_LINE = "layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };"
Y_LINE = "layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };"


def refused(tmp_path: Path, *changes: tuple[str, str], **options: object) -> str:
    """The error's text behind file and key, which every error opens with."""
    with pytest.raises(ShaderError) as error:
        compile_tiny(tmp_path, *changes, **options)  # type: ignore[arg-type]
    zp, bias = options.get("zp", "f32:buffer"), options.get("bias", "none")
    opening = f"tiny.comp: tiny/only[x=f32:buffer,zp={zp},bias={bias},y=f32:buffer]: "
    assert str(error.value).startswith(opening)
    return str(error.value).removeprefix(opening)


def as_buffer(dtype: str) -> tuple[tuple[str, str], ...]:
    """What the tiny shader needs to read a zero-point buffer of this dtype, whatever its key says."""
    return (
        ("#version 450\n", f"#version 450\n{EXTENSION.get(dtype, '')}"),
        ("#ifdef ZP_I8", "#if 1" if dtype == "i8" else "#if 0"),
    )


@pytest.mark.parametrize("storage", ["buffer", "image"])
@pytest.mark.parametrize("dtype", list(GLSL))
@pytest.mark.parametrize("bias", ["none", "f32:buffer"])
def test_an_honest_shader_builds(tmp_path: Path, dtype: str, storage: str, bias: str) -> None:
    result = compile_tiny(tmp_path, zp=f"{dtype}:{storage}", bias=bias)
    assert result.bindings == ((0, 1, 3) if bias == "none" else (0, 1, 2, 3))


@pytest.mark.parametrize(("said", "done"), LIES)
def test_zero_point_buffer_of_another_dtype(tmp_path: Path, said: str, done: str) -> None:
    changes = (*as_buffer(done), ("ZP_TYPE", GLSL[done]))
    text = refused(tmp_path, *changes, zp=f"{said}:buffer")
    assert text == f"slot zp: buffer of {said} declared; found buffer of {done}"


@pytest.mark.parametrize(("said", "done"), LIES)
def test_zero_point_image_of_another_dtype(tmp_path: Path, said: str, done: str) -> None:
    changes = (("ZP_FORMAT", FORMATS[done]), ("ZP_IMAGE_TYPE", IMAGES[done]))
    text = refused(tmp_path, *changes, zp=f"{said}:image")
    declared, found = (f"image of {FORMATS[name]} of {SAMPLED[name]}" for name in (said, done))
    assert text == f"slot zp: {declared} declared; found {found}"


@pytest.mark.parametrize("dtype", list(GLSL))
def test_zero_point_in_the_other_storage(tmp_path: Path, dtype: str) -> None:
    image = f"image of {FORMATS[dtype]} of {SAMPLED[dtype]}"
    changes = (("ZP_FORMAT", FORMATS[dtype]), ("ZP_IMAGE_TYPE", IMAGES[dtype]), ("#ifdef ZP_IMAGE", "#if 1"))
    text = refused(tmp_path, *changes, zp=f"{dtype}:buffer")
    assert text == f"slot zp: buffer of {dtype} declared; found {image}"
    changes = (*as_buffer(dtype), ("ZP_TYPE", GLSL[dtype]), ("#ifdef ZP_IMAGE", "#if 0"))
    text = refused(tmp_path, *changes, zp=f"{dtype}:image")
    assert text == f"slot zp: {image} declared; found buffer of {dtype}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # bindings
        (
            [("binding = ZP_BINDING", "binding = BIAS_BINDING")],
            "slot zp: binding 1 declared; found 2",
        ),
        (
            [("binding = ZP_BINDING", "binding = 7")],
            "slot zp: binding 1 declared; found 7",
        ),
        (
            [("{ ZP_TYPE zp[]; }", "{ ZP_TYPE zero[]; }"), ("zp[i]", "zero[i]")],
            "binding 1: no slot is called 'zero'; slots: x, zp, bias, y",
        ),
        (
            [(X_LINE, X_LINE.replace("binding", "set = 1, binding"))],
            "x: descriptor set 0 declared; found set 1",
        ),
        (
            [("#ifndef BIAS_NONE\nlayout", "#if 1\nlayout"), ("BIAS_TYPE", "float")],
            "slot bias: none declared; found binding 2, a buffer of f32",
        ),
        (
            [
                (X_LINE, f"{X_LINE}\nlayout(std430, binding = X_BINDING) readonly buffer X2 {{ float x[]; }} x2;"),
                ("x[i] *", "x2.x[i] * x[i] *"),
            ],
            "slot x: binding 0 is declared twice; one variable a slot",
        ),
        (
            [(X_LINE, ""), ("x[i] *", "")],
            "slot x: f32:buffer declared; found no binding 0",
        ),
        (
            [(X_LINE, "layout(std140, binding = X_BINDING) uniform X { vec4 x[4]; };"), ("x[i] *", "x[i].x *")],
            "slot x: buffer of f32 declared; found storage class 2 of a type of opcode 30",
        ),
        (
            [("{ X_TYPE x[]; }", "{ vec4 x[]; }"), ("x[i] *", "x[i].x *")],
            "slot x: buffer of f32 declared; found buffer of f32x4",
        ),
        (
            [("{ X_TYPE x[]; }", "{ uint x[]; }"), ("x[i] *", "uintBitsToFloat(x[i]) *")],
            "slot x: buffer of f32 declared; found buffer of u32",
        ),
        (
            [("{ X_TYPE x[]; }", "{ vec3 x[]; }"), ("x[i] *", "x[i].x *")],
            "slot x: buffer of f32 declared; found buffer of f32x3 with stride 16",
        ),
        (
            [("{ X_TYPE x[]; }", "{ uint head; X_TYPE x[]; }"), ("x[i] *", "x[i] * head *")],
            "slot x: buffer of f32 declared; found buffer of a block of 2 members",
        ),
        # directions
        (
            [(X_LINE, X_LINE.replace("readonly ", ""))],
            "slot x: io in declared; found a binding that may be written; make it readonly",
        ),
        (
            [("x[i] * eps", "eps")],
            "slot x: io in declared; found a binding that is never read; read it or drop the slot",
        ),
        (
            [("x[i] * eps", "x.length() * eps")],
            "slot x: io in declared; found a binding that is never read; read it or drop the slot",
        ),
        (
            [("x[i] * eps", "eps"), ("void main", "float dead() { return x[0]; }\nvoid main")],
            "slot x: io in declared; found a binding that is never read; read it or drop the slot",
        ),
        (
            [("- float(LOAD_ZP(i / STEP))", "* float(STEP)")],
            "slot zp: io in declared; found a binding that is never read; read it or drop the slot",
        ),
        (
            [(Y_LINE, Y_LINE.replace("writeonly ", ""))],
            "slot y: io out declared; found a binding that may be read; make it writeonly",
        ),
        # push constants
        (
            [("uint n; float eps;", "float eps; uint n;")],
            "push constants: [n int at 0, eps float at 4] declared; found [eps float at 0, n int at 4]",
        ),
        (
            [("uint n; float eps;", "uint n; uint eps;")],
            "push constants: [n int at 0, eps float at 4] declared; found [n int at 0, eps int at 4]",
        ),
        (
            [("uint n; float eps;", "uint n; layout(offset = 8) float eps;")],
            "push constants: [n int at 0, eps float at 4] declared; found [n int at 0, eps float at 8]",
        ),
        (
            [("uint n; float eps;", "uint n; float epsilon;"), ("* eps", "* epsilon")],
            "push constants: [n int at 0, eps float at 4] declared; found [n int at 0, epsilon float at 4]",
        ),
        (
            [("uint n; float eps;", "uvec2 n; float eps;"), (">= n", ">= n.x")],
            "push constants: [n int at 0, eps float at 4] declared; found [n u32x2 at 0, eps float at 8]",
        ),
        (
            [("layout(push_constant) uniform Push { uint n; float eps; };", "const uint n = 8; const float eps = 1;")],
            "push constants: [n int at 0, eps float at 4] declared; found []",
        ),
        (
            [("x[i] * eps", "x[i]")],
            "push constant eps: never read; use it or drop it from shader and manifest",
        ),
        # specialization constants
        (
            [("constant_id = 0", "constant_id = 1")],
            "specialization constants: [STEP = id 0] declared; found [STEP = id 1]",
        ),
        (
            [("const uint STEP = 1;", "const uint STRIDE = 1;"), ("i / STEP", "i / STRIDE")],
            "specialization constants: [STEP = id 0] declared; found [STRIDE = id 0]",
        ),
        (
            [("const uint STEP = 1;", "const float STEP = 1;"), ("i / STEP", "i / uint(STEP)")],
            "specialization constant STEP: f32; need one of i32, u32, bool",
        ),
        (
            [("i / STEP", "i")],
            "specialization constant STEP: never used; use it or drop it from shader and manifest",
        ),
        # local size and shared memory
        (
            [("local_size_x = LANES", "local_size_x_id = 0")],
            "the local size depends on specialization constants; size it by a macro of [constants] or defines",
        ),
        (
            [("void main() {\n", "shared float part[STEP];\nvoid main() {\n  part[0] = 1;\n")],
            "shared memory depends on specialization constants; size it by a macro of [constants] or defines",
        ),
        # capabilities and extensions
        (
            [
                ("#version 450\n", "#version 450\n#extension GL_EXT_spirv_intrinsics : require\n"),
                (
                    "void main() {\n",
                    'spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019], '
                    "id = 4450)\nint dot4(int a, int b, spirv_literal int packed);\n"
                    "int dead(int a) { return dot4(a, a, 0); }\nvoid main() {\n",
                ),
            ],
            "capability DotProductInput4x8BitPacked: not needed; drop the extension or the code that asks for it",
        ),
        (
            [
                ("#version 450\n", "#version 450\n#extension GL_EXT_spirv_intrinsics : require\n"),
                (
                    "void main() {\n",
                    'spirv_instruction(extensions = ["SPV_KHR_8bit_storage"], id = 200)\nint inverse(int a);\n'
                    "void main() {\n",
                ),
                ("i / STEP", "inverse(int(i)) / STEP"),
            ],
            "extension SPV_KHR_8bit_storage: not needed; drop the #extension that asks for it",
        ),
        (
            [
                ("#version 450\n", "#version 450\n#extension GL_ARB_gpu_shader_fp64 : require\n"),
                ("x[i] * eps", "float(double(x[i]) * eps)"),
            ],
            "capability 10: the player has no device fact for it; add one or do without",
        ),
    ],
)
def test_lies(tmp_path: Path, changes: list[tuple[str, str]], message: str) -> None:
    assert refused(tmp_path, *changes) == message


def test_an_image_that_is_no_plain_storage_image(tmp_path: Path) -> None:
    array = IMAGE_LINE.replace("ZP_IMAGE_TYPE", "image2DArray")
    text = refused(tmp_path, (IMAGE_LINE, array), ("ivec2(i, 0)", "ivec3(i, 0, 0)"), zp="f32:image")
    assert text == ("slot zp: image of rgba32f of f32 declared; found image of rgba32f, not a plain 2-D storage image")


def test_an_output_that_is_never_written(tmp_path: Path) -> None:
    z = ("[attrs]", 'z = { io = "out", dtype = ["f32"], storage = ["buffer"] }\n[attrs]')
    line = Y_LINE.replace("Y_", "Z_").replace(" Y ", " Z ").replace("y[]", "z[]")
    with pytest.raises(ShaderError) as error:
        compile_tiny(tmp_path, (Y_LINE, f"{Y_LINE}\n{line}"), manifest_changes=(z,))
    assert str(error.value).endswith(
        "z=f32:buffer]: slot z: io out declared; found a binding that is never written; write it or drop the slot"
    )


def in_place(qualifier: str, use: str) -> tuple[tuple[str, str], ...]:
    """Changes of the shader: a buffer z of this qualifier, and how it is used beside y."""
    line = Y_LINE.replace("Y_", "Z_").replace(" Y ", " Z ").replace("y[]", "z[]").replace("writeonly ", qualifier)
    return (Y_LINE, f"{Y_LINE}\n{line}"), ("y[i] = value", use)


IN_PLACE = (("[attrs]", 'z = { io = "inout", dtype = ["f32"], storage = ["buffer"] }\n[attrs]'),)


def test_a_slot_that_is_read_and_written(tmp_path: Path) -> None:
    compile_tiny(tmp_path, *in_place("", "y[i] = z[i]; z[i] = value"), manifest_changes=IN_PLACE)


@pytest.mark.parametrize(
    ("qualifier", "use", "found"),
    [
        ("writeonly ", "y[i] = value; z[i] = value", "read; read it and leave writeonly out, or declare io out"),
        ("", "y[i] = value; z[i] = value", "read; read it and leave writeonly out, or declare io out"),
        ("readonly ", "y[i] = value + z[i]", "written; write it and leave readonly out, or declare io in"),
        ("", "y[i] = value + z[i]", "written; write it and leave readonly out, or declare io in"),
    ],
    ids=["writeonly", "never read", "readonly", "never written"],
)
def test_a_slot_that_is_not_both_read_and_written(tmp_path: Path, qualifier: str, use: str, found: str) -> None:
    with pytest.raises(ShaderError) as error:
        compile_tiny(tmp_path, *in_place(qualifier, use), manifest_changes=IN_PLACE)
    text = f"z=f32:buffer]: slot z: io inout declared; found a binding that is never {found}"
    assert str(error.value).endswith(text)


def test_image_size_is_not_a_read(tmp_path: Path) -> None:
    text = refused(tmp_path, ("imageLoad(zp, ivec2(i, 0)).x", "imageSize(zp).x + i"), zp="i8:image")
    assert text == "slot zp: io in declared; found a binding that is never read; read it or drop the slot"


def test_a_view_is_what_the_shader_must_declare(tmp_path: Path) -> None:
    view = (('x = { io = "in"', 'x = { view = "u32x4", io = "in"'),)
    compile_tiny(tmp_path / "honest", ("x[i] *", "uintBitsToFloat(x[i].x) *"), manifest_changes=view)
    changes = (("X_TYPE", "uint"), ("x[i] *", "uintBitsToFloat(x[i]) *"))
    text = refused(tmp_path / "lie", *changes, manifest_changes=view)
    assert text == "slot x: buffer of u32x4 declared; found buffer of u32"


BYTES = (('y = { io = "out", dtype = ["f32"]', 'y = { io = "out", dtype = ["i8"], view = "u32", atomic = true'),)


def put_byte(tmp_path: Path, use: str, access: str = "Y_ACCESS") -> None:
    changes = (("writeonly buffer Y", f"{access} buffer Y"), ("y[i] = value", use))
    compile_tiny(tmp_path, *changes, manifest_changes=BYTES)


def test_bytes_are_put_into_words_by_atomics(tmp_path: Path) -> None:
    put_byte(tmp_path, "atomicOr(y[i / 4], uint(value))")


@pytest.mark.parametrize(
    ("use", "found"),
    [
        ("y[i / 4] |= uint(value)", "more than atomics read"),
        ("atomicOr(y[i / 4], y[i] + uint(value))", "more than atomics read"),
    ],
)
def test_words_of_bytes_are_read_by_atomics_alone(tmp_path: Path, use: str, found: str) -> None:
    with pytest.raises(ShaderError, match=f"slot y: io out declared; found a binding that {found}$"):
        put_byte(tmp_path, use)


LOOP = (
    "float value = x[i] * eps",
    "float value = 0.0;\n  for (uint k = 0; k < n; ++k) value += x[k] * eps; value +=  0.0",
)


def test_a_loop_of_which_the_guard_does_not_know_the_length(tmp_path: Path) -> None:
    assert refused(tmp_path, LOOP) == "1 loops that nothing unrolls; say `iterations`, at most, in the manifest"


def test_a_loop_that_the_guard_knows_or_that_is_unrolled(tmp_path: Path) -> None:
    says = (('name = "only"', 'name = "only"\niterations = "numel(x)"'),)
    compile_tiny(tmp_path / "known", LOOP, manifest_changes=says)
    unrolled = (
        "#version 450\n",
        "#version 450\n#extension GL_EXT_control_flow_attributes : require\n",
    )
    compile_tiny(
        tmp_path / "unrolled", unrolled, (LOOP[0], LOOP[1].replace("for", "[[unroll]] for").replace("< n", "< 4"))
    )


def test_swapped_bindings_of_one_dtype(tmp_path: Path) -> None:
    """Two f32 buffers, each at the other's number: types agree, names do not."""
    text = refused(
        tmp_path,
        ("binding = ZP_BINDING", "binding = 9"),
        ("binding = X_BINDING", "binding = ZP_BINDING"),
        ("binding = 9", "binding = X_BINDING"),
    )
    assert text == "slot zp: binding 1 declared; found 0"


MATRIX_EXTENSIONS = "".join(
    f"#extension GL_{name} : require\n"
    for name in ("KHR_cooperative_matrix", "KHR_memory_scope_semantics", "EXT_shader_explicit_arithmetic_types_float16")
)
PRODUCT = """  coopmat<float16_t, gl_ScopeSubgroup, 16, DEPTH, gl_MatrixUseA> left;
  coopmat<float16_t, gl_ScopeSubgroup, DEPTH, 16, gl_MatrixUseB> right;
  coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> sum;
  coopMatLoad(left, part, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
  coopMatLoad(right, part, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
  coopMatLoad(sum, x, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
  coopMatStore(coopMatMulAdd(left, right, sum), y, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
"""


def on_matrices(depth: int, part: str = "uvec4") -> tuple[tuple[str, str], ...]:
    """The tiny shader, reading x and writing y as matrices alone."""
    return (
        ("#version 450\n", f"#version 450\n{MATRIX_EXTENSIONS}shared {part} part[64];\n"),
        ("x[i] * eps", "eps"),
        ("  y[i] = value;\n", f"  part[i] = {part}(value);\n  barrier();\n{PRODUCT.replace('DEPTH', str(depth))}"),
    )


def test_matrices_whose_product_the_guard_asks_for(tmp_path: Path) -> None:
    """Loads and stores of matrices are reads and writes of their slots."""
    asked = (("rows(x) <= 8", "device.coopmat_f16_16x16x16"),)
    assert compile_tiny(tmp_path, *on_matrices(16), manifest_changes=asked).bindings == (0, 1, 3)


def test_matrices_whose_product_no_device_is_asked_for(tmp_path: Path) -> None:
    product = "product coopmat_f16_16x16x16"
    text = f"{product}: the guard does not ask for it; add device.coopmat_f16_16x16x16 to when"
    assert refused(tmp_path / "other", *on_matrices(16)) == text
    no_guard = (('when = "rows(x) <= 8"\n', ""),)
    assert refused(tmp_path / "none", *on_matrices(16), manifest_changes=no_guard) == text
    text = refused(tmp_path / "unknown", *on_matrices(32))
    assert text == "product coopmat_f16_16x16x32: the player has no device fact for it; add one or do without"


@pytest.mark.parametrize(("part", "name"), [("uint", "u32"), ("vec2", "f32x2")])
def test_matrices_in_an_array_that_lies_anywhere(tmp_path: Path, part: str, name: str) -> None:
    """A driver may put it at any multiple of its elements' size; on an H200 a matrix came from 4 bytes before."""
    asked = (("rows(x) <= 8", "device.coopmat_f16_16x16x16"),)
    text = f"a matrix in shared memory of {name}; use elements of 16 bytes, such as uvec4"
    assert refused(tmp_path, *on_matrices(16, part), manifest_changes=asked) == text


TURNS = ('name = "only"', 'name = "only"\nahead = ["zp", "bias"]')
PUSHES = ("float eps; };", "float eps; uint turn; uint awaited; };")
COHERENT = tuple((line, line.replace(" buffer", " coherent buffer")) for line in (X_LINE, Y_LINE))
COUNTS = ("void main() {", "layout(std430, binding = 32) volatile buffer Turns { uint turns[]; };\nvoid main() {")
WAIT = ("  float value", "  if (turns[turn - 1u] < awaited) return;\n  float value")
GIVE = ("  y[i] = value;", "  y[i] = value;\n  atomicAdd(turns[turn], 1u);")
DECLARED = "turns, a buffer of u32 that is awaited and given"


def test_an_algorithm_that_takes_turns_counts_them(tmp_path: Path) -> None:
    result = compile_tiny(tmp_path, PUSHES, *COHERENT, COUNTS, WAIT, GIVE, manifest_changes=(TURNS,))
    assert (result.bindings, result.push_bytes) == ((0, 1, 3), 16)


def other(change: tuple[str, str], old: str, new: str) -> tuple[str, str]:
    assert old in change[1]
    return change[0], change[1].replace(old, new)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ((), ""),
        ((COUNTS, WAIT), DECLARED.replace("and given", "and not given")),
        ((COUNTS, GIVE), DECLARED.replace("is awaited", "is not awaited")),
        ((other(COUNTS, "uint", "int"), WAIT, other(GIVE, "1u", "1")), DECLARED.replace("u32", "i32")),
        ((other(COUNTS, "turns[]", "order[]"), other(GIVE, "turns", "order")), "order, a buffer of u32"),
    ],
)
def test_turns_without_their_counts(tmp_path: Path, changes: tuple[tuple[str, str], ...], found: str) -> None:
    text = refused(tmp_path, PUSHES, *COHERENT, *changes, manifest_changes=(TURNS,))
    assert text.startswith(f"binding 32: [{DECLARED}] declared; found [{found}")


def test_counts_of_an_algorithm_that_takes_no_turns(tmp_path: Path) -> None:
    changes = (COUNTS, other(WAIT, "turn - 1u] < awaited", "0] < n"), other(GIVE, "turn]", "n]"))
    assert refused(tmp_path, *changes) == f"binding 32: [] declared; found [{DECLARED}]"


def test_counts_in_another_set(tmp_path: Path) -> None:
    changes = (PUSHES, *COHERENT, other(COUNTS, "std430,", "std430, set = 1,"), WAIT, GIVE)
    assert refused(tmp_path, *changes, manifest_changes=(TURNS,)) == "turns: descriptor set 0 declared; found set 1"


@pytest.mark.parametrize("slot", ["x", "y"])
def test_what_comes_by_turns_is_coherent(tmp_path: Path, slot: str) -> None:
    others = [change for change in COHERENT if f"{slot}[]" not in change[0]]
    text = refused(tmp_path, PUSHES, *others, COUNTS, WAIT, GIVE, manifest_changes=(TURNS,))
    assert text == f"slot {slot}: found a binding that is not coherent; what is not in `ahead` comes by turns"

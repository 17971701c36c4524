"""A tiny kernel whose manifest and shader the tests change one thing at a time."""

from __future__ import annotations

from pathlib import Path

from zeropoint.kernels.build import plan
from zeropoint.kernels.cache import CompiledVariant, Job
from zeropoint.kernels.compile import compile_variants
from zeropoint.kernels.manifest_reader import load_manifests
from zeropoint.kernels.toolchain import find_toolchain

MANIFEST = """
doc = "y = x * eps - zp + bias"
[slots]
x = { io = "in", dtype = ["f32"], storage = ["buffer"] }
zp = { io = "in", dtype = ["i8", "i32", "f16", "f32"], storage = ["buffer", "image"] }
bias = { io = "in", dtype = ["f32"], storage = ["buffer"], optional = true }
y = { io = "out", dtype = ["f32"], storage = ["buffer"] }
[attrs]
eps = "float"
step = "int"
[constants]
LANES = 64
[[algorithm]]
name = "only"
when = "rows(x) <= 8"
grid = ["ceil_div(numel(x), LANES)", "1", "1"]
spec = { STEP = "attr(step)" }
push = { n = "numel(x)", eps = "attr(eps)" }
"""

SHADER = """#version 450
layout(local_size_x = LANES) in;
layout(constant_id = 0) const uint STEP = 1;
layout(push_constant) uniform Push { uint n; float eps; };
layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
#ifdef ZP_IMAGE
layout(binding = ZP_BINDING, ZP_FORMAT) uniform readonly ZP_IMAGE_TYPE zp;
#define LOAD_ZP(i) imageLoad(zp, ivec2(i, 0)).x
#else
layout(std430, binding = ZP_BINDING) readonly buffer Zp { ZP_TYPE zp[]; };
#ifdef ZP_I8
#define LOAD_ZP(i) int(zp[i])
#else
#define LOAD_ZP(i) zp[i]
#endif
#endif
#ifndef BIAS_NONE
layout(std430, binding = BIAS_BINDING) readonly buffer Bias { BIAS_TYPE bias[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };
void main() {
  uint i = gl_GlobalInvocationID.x;
  if (i >= n) return;
  float value = x[i] * eps - float(LOAD_ZP(i / STEP));
#ifndef BIAS_NONE
  value += bias[i];
#endif
  y[i] = value;
}
"""


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """Every change must match, so that a test cannot pass by changing nothing."""
    for old, new in changes:
        assert old in text, f"{old!r} is not in the text"
        text = text.replace(old, new)
    return text


def write_tree(folder: Path, *, manifest: str = MANIFEST, shader: str = SHADER, name: str = "tiny") -> Path:
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(manifest)
    (folder / f"{name}.comp").write_text(shader)
    return folder


def tiny_job(folder: Path, *, zp: str = "f32:buffer", bias: str = "none") -> Job:
    """The variant of the tree's first kernel with this zero point and bias."""
    wanted = {f"zp={zp}", f"bias={bias}"}
    return next(job for job in plan(load_manifests(folder)) if wanted <= {str(slot) for slot in job.key.slots})


def compile_tiny(
    tmp_path: Path,
    *shader_changes: tuple[str, str],
    manifest_changes: tuple[tuple[str, str], ...] = (),
    zp: str = "f32:buffer",
    bias: str = "none",
) -> CompiledVariant:
    shaders = write_tree(
        tmp_path / "shaders",
        manifest=replaced(MANIFEST, *manifest_changes),
        shader=replaced(SHADER, *shader_changes),
    )
    job = tiny_job(shaders, zp=zp, bias=bias)
    (result,) = compile_variants([job], find_toolchain(), cache_dir=tmp_path / "cache", workers=1)
    return result

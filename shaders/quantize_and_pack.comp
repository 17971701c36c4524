#version 450
// q[row, p] = clamp(round(x[row, k] * (1 / scale) ) + zp), int8, packed four to a word; position p of the packed row holds
// k = p / GROUP_PADDED * GROUP_SIZE + p % GROUP_PADDED, and zero where the padding has no k.
// group_sums[row, s] = sum of q over step s (STEP positions). Integers equal torch's; see ROUNDING below.
// One invocation owns max(32, STEP) positions of a row: whole steps, whole 16-byte words.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "exact.glsl"

layout(local_size_x = LANES) in;

// 0: rne(x * (1 / scale)) + zp           torchao quantize_affine
// 1: rne(x / scale + zp), ties exact      quantized_decomposed.quantize_per_token with f64 scales
// 2: rne(x * (1 / scale) + zp) in f32     quantized_decomposed.quantize_per_token with f32 scales
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

// x * inverse; a subnormal x is scaled up first, so that a driver that flushes it changes nothing.
float scaled(uint bits, float inverse) {
  precise float product;
  if ((bits & 0x7f800000u) != 0u) {
    product = uintBitsToFloat(bits) * inverse;
    return product;
  }
  float mantissa = float(bits & 0x7fffffu);
  precise float unit = (inverse * 7.8886090522101181e-31) * 1.7763568394002505e-15;  // 2^-100 * 2^-49
  product = mantissa * unit;
  return (bits >> 31) != 0u ? -product : product;
}

// rne(x / scale + zero_point) as if in infinite precision: n = x / scale rounded to the nearest integer, corrected by
// the exact remainder (|n| < 2^9 and scale is split in 12-bit halves, so every product and difference is exact).
int round_exact(float value, float scale_value, float inverse, int zero_point) {
  float limit = float(qmax - qmin) + 2.0;
  precise float approximate = clamp(value * inverse, -limit, limit);
  float n = roundEven(approximate);
  if (abs(n) >= limit) return n > 0.0 ? qmax : qmin;
  float high = uintBitsToFloat(floatBitsToUint(scale_value) & 0xfffff000u);
  precise float low = scale_value - high;
  precise float rest = value - n * high;
  rest = rest - n * low;
  float half_scale = 0.5 * scale_value;
  if (rest > half_scale) n += 1.0;
  if (rest < -half_scale) n -= 1.0;
  int result = int(n) + zero_point;
  if (abs(rest) == half_scale && (result & 1) != 0) result += rest > 0.0 ? 1 : -1;
  return result;
}

int quantized(uint bits, float scale_value, float inverse, int zero_point) {
  float lowest = float(qmin);
  float highest = float(qmax);
  if (!is_finite_bits(bits) || !is_finite_bits(floatBitsToUint(scale_value))) return qmin;
  if (ROUNDING == 1) return clamp(round_exact(uintBitsToFloat(bits), scale_value, inverse, zero_point), qmin, qmax);
  precise float value = scaled(bits, inverse);
  if (ROUNDING == 0) value = roundEven(value);
  value = value + float(zero_point);
  if (ROUNDING == 2) value = roundEven(value);
  return int(clamp(value, lowest, highest));
}

// Index of x for packed position p, or row_length where the padding has none.
uint source_index(uint p) {
  if (GROUP_SIZE == GROUP_PADDED) return min(p, row_length);
  uint within = p % GROUP_PADDED;
  uint k = p / GROUP_PADDED * GROUP_SIZE + within;
  return within < GROUP_SIZE ? min(k, row_length) : row_length;
}

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

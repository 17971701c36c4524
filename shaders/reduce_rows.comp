#version 450
// y[row] = the sum, mean, largest or smallest of the row_length elements of a row of x; sums are f32 (i32 for i32), added in
// one order on every device. A NaN in a row makes its result NaN, as in torch. For bools amax is any and amin is all.
// One workgroup a row.
#extension GL_GOOGLE_include_directive : require
#include "elements.glsl"
#include "exact.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const uint OP = 0;

layout(push_constant) uniform Push {
  uint rows;
  uint row_length;
  int x_offset;
  int x_inner_rows;
  int x_outer_stride;
  int x_inner_stride;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = Y_BINDING) Y_ACCESS buffer Y { Y_TYPE y[]; };

#include "rows.glsl"

shared int scratch[LANES];  // integers: sums, order-preserving keys, or the bits of f32 sums

const int kNanIfLargest = 0x7fffffff;
const int kNanIfSmallest = int(0x80000000u);

#if defined(X_F32) || defined(X_F16)
int part_of(uint i) {
  uint bits = floatBitsToUint(float(x[i]));
  if (OP <= OP_MEAN) return int(bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return OP == OP_AMAX ? kNanIfLargest : kNanIfSmallest;
  return float_key(bits);
}

int add(int a, int b) {
  return floatBitsToInt(intBitsToFloat(a) + intBitsToFloat(b));
}

float result_of(int part) {
  if (OP == OP_SUM) return intBitsToFloat(part);
  if (OP == OP_MEAN) return intBitsToFloat(part) / float(row_length);
  bool nan = part == (OP == OP_AMAX ? kNanIfLargest : kNanIfSmallest);
  return nan ? uintBitsToFloat(kNanBits) : key_float(part);
}
#else
int part_of(uint i) {
  return int(X_AT(i));
}

int add(int a, int b) {
  return a + b;
}

int result_of(int part) {
  return part;
}
#endif

int combine(int a, int b) {
  if (OP == OP_AMAX) return max(a, b);
  if (OP == OP_AMIN) return min(a, b);
  return add(a, b);
}

void main() {
  uint row = group_index();
  uint lane = gl_LocalInvocationIndex;
  uint start = row_start(min(row, rows - 1u));
  int part = OP == OP_AMAX ? kNanIfSmallest : OP == OP_AMIN ? kNanIfLargest : 0;
  for (uint k = lane; k < row_length; k += LANES) part = combine(part, part_of(start + k));
  scratch[lane] = part;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    if (lane < width) scratch[lane] = combine(scratch[lane], scratch[lane + width]);
    barrier();
  }
  if (lane != 0u || row >= rows) return;
#ifdef Y_U8
  PUT_BYTE(y, row, result_of(scratch[0]))
#else
  y[row] = Y_TYPE(result_of(scratch[0]));
#endif
}

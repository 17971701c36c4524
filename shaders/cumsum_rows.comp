#version 450
// y[row][k] = x[row][0] + ... + x[row][k]. Sums are f32 (i32 for i32) and added in one order on every device. One workgroup a
// row, LANES elements at a time: sums within them by doubling the distance, then the sum of all before them.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(push_constant) uniform Push {
  uint rows;
  uint row_length;
  int x_offset;
  int x_inner_rows;
  int x_outer_stride;
  int x_inner_stride;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "rows.glsl"

#ifdef X_I32
#define SUM_TYPE int
#else
#define SUM_TYPE float
#endif

shared SUM_TYPE sums[LANES];

void main() {
  uint row = group_index();
  uint lane = gl_LocalInvocationIndex;
  uint start = row_start(min(row, rows - 1u));
  SUM_TYPE before = SUM_TYPE(0);
  for (uint first = 0u; first < row_length; first += LANES) {
    uint k = first + lane;
    SUM_TYPE sum = k < row_length ? SUM_TYPE(x[start + k]) : SUM_TYPE(0);
    for (uint distance = 1u; distance < LANES; distance <<= 1) {
      sums[lane] = sum;
      barrier();
      if (lane >= distance) sum = sums[lane - distance] + sum;
      barrier();
    }
    sums[lane] = sum;
    barrier();
    if (k < row_length && row < rows) y[row * row_length + k] = Y_TYPE(before + sum);
    before += sums[LANES - 1];
    barrier();
  }
}

#version 450
// y = exp(x - max) / sum(exp(x - max)) over each row of row_length elements, or with LOGARITHM its log,
// (x - max) - log(sum(exp(x - max))). A row that holds a NaN or +inf, or only -inf, becomes NaN, as in torch. f32 arithmetic.
// One workgroup a row.
#extension GL_GOOGLE_include_directive : require
#include "exact.glsl"
#include "double_float.glsl"
#include "math.glsl"
#include "reduce.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const int LOGARITHM = 0;

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

void main() {
  uint row = group_index();
  uint lane = gl_LocalInvocationIndex;
  uint start = row_start(min(row, rows - 1u));
  float largest = -kInf;
  for (uint k = lane; k < row_length; k += LANES) {
    float v = float(x[start + k]);
    if (v > largest) largest = v;
  }
  largest = workgroup_max(largest);
  float sum = 0.0;
  for (uint k = lane; k < row_length; k += LANES) sum += exp_accurate(float(x[start + k]) - largest);
  sum = workgroup_sum(sum);
  if (abs(largest) == kInf) sum = kNan;
  if (row >= rows) return;
  float log_sum = LOGARITHM != 0 ? log_accurate(sum) : 0.0;
  for (uint k = lane; k < row_length; k += LANES) {
    float v = float(x[start + k]) - largest;
    y[row * row_length + k] = Y_TYPE(LOGARITHM != 0 ? v - log_sum : exp_accurate(v) / sum);
  }
}

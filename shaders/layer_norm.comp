#version 450
// y = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias over each row of row_length elements, in f32; the variance
// from the differences, not from the squares. One workgroup a row.
#extension GL_GOOGLE_include_directive : require
#include "reduce.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(push_constant) uniform Push {
  uint rows;
  uint row_length;
  int x_offset;
  int x_inner_rows;
  int x_outer_stride;
  int x_inner_stride;
  float eps;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
#ifndef WEIGHT_NONE
layout(std430, binding = WEIGHT_BINDING) readonly buffer Weight { WEIGHT_TYPE weight[]; };
#endif
#ifndef BIAS_NONE
layout(std430, binding = BIAS_BINDING) readonly buffer Bias { BIAS_TYPE bias[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "rows.glsl"

void main() {
  uint row = group_index();
  uint lane = gl_LocalInvocationIndex;
  uint start = row_start(min(row, rows - 1u));
  float sum = 0.0;
  for (uint k = lane; k < row_length; k += LANES) sum += float(x[start + k]);
  float mean = workgroup_sum(sum) / float(row_length);
  float squares = 0.0;
  for (uint k = lane; k < row_length; k += LANES) {
    float v = float(x[start + k]) - mean;
    squares += v * v;
  }
  float factor = 1.0 / sqrt(workgroup_sum(squares) / float(row_length) + eps);
  if (row >= rows) return;
  for (uint k = lane; k < row_length; k += LANES) {
    float v = (float(x[start + k]) - mean) * factor;
#ifndef WEIGHT_NONE
    v *= float(weight[k]);
#endif
#ifndef BIAS_NONE
    v += float(bias[k]);
#endif
    y[row * row_length + k] = Y_TYPE(v);
  }
}

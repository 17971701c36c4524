#version 450
// y = x / sqrt(mean(x^2) + eps) * (weight_offset + weight) over each row of row_length elements, in f32. Without a weight the
// factor is weight_offset alone; Gemma's weight_offset is 1. One workgroup a row.
#extension GL_GOOGLE_include_directive : require
#include "reduce.glsl"
#include "rms.glsl"

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
  float weight_offset;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
#ifndef WEIGHT_NONE
layout(std430, binding = WEIGHT_BINDING) readonly buffer Weight { WEIGHT_TYPE weight[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "rows.glsl"

void main() {
  uint row = group_index();
  uint lane = gl_LocalInvocationIndex;
  uint start = row_start(min(row, rows - 1u));
  float squares = 0.0;
  for (uint k = lane; k < row_length; k += LANES) squares = add_square(squares, float(x[start + k]));
  float factor = inverse_rms(squares, row_length, eps);
  if (row >= rows) return;
  for (uint k = lane; k < row_length; k += LANES) {
#ifdef WEIGHT_NONE
    float w = weight_offset;
#else
    float w = weight_offset + float(weight[k]);
#endif
    y[row * row_length + k] = Y_TYPE(float(x[start + k]) * factor * w);
  }
}

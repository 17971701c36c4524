#version 450
// y[p] = x[x_offset + p . x_stride + at * axis_stride], at = index[index_offset + p . index_stride], for every p in
// [size0, size1, size2, size3]; y is dense. A negative `at` counts from axis_length; one outside gives 0.
// gather, index_select, and index by one tensor.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "dense.glsl"
#include "elements.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const uint LEVELS = 4;

layout(push_constant) uniform Push {
  uint n_elements;
  int size1;
  int size2;
  int size3;
  int x_offset;
  int x_stride0;
  int x_stride1;
  int x_stride2;
  int x_stride3;
  int index_offset;
  int index_stride0;
  int index_stride1;
  int index_stride2;
  int index_stride3;
  int axis_stride;
  int axis_length;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = INDEX_BINDING) readonly buffer Index { INDEX_TYPE index[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "strides.glsl"

void main() {
  EACH_ELEMENT(i) {
    ivec4 p = position_of(i);
    int at = index[index_offset + dot4i(p, ivec4(index_stride0, index_stride1, index_stride2, index_stride3))];
    if (at < 0) at += axis_length;
    if (at >= 0 && at < axis_length) {
      PUT(i, X_AT(x_offset + at * axis_stride + dot4i(p, ivec4(x_stride0, x_stride1, x_stride2, x_stride3))))
    } else {
      PUT(i, Y_TYPE(0))
    }
  }
  PUT_WORD
}

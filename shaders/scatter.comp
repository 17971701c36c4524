#version 450
// y[y_offset + p . y_stride + at * axis_stride] = x[x_offset + p . x_stride], at = index[index_offset + p . index_stride],
// for every p in [size0, size1, size2, size3]. A negative `at` counts from axis_length; one outside writes nothing.
// y keeps its other elements: it is state, written in place (index_copy, index_put, cache writes). Of two writes to one
// element either may win. x may be f32 or f16 whichever y is.
#extension GL_GOOGLE_include_directive : require
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
  int y_offset;
  int y_stride0;
  int y_stride1;
  int y_stride2;
  int y_stride3;
  int axis_stride;
  int axis_length;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = INDEX_BINDING) readonly buffer Index { INDEX_TYPE index[]; };
layout(std430, binding = Y_BINDING) Y_ACCESS buffer Y { Y_TYPE y[]; };

#include "strides.glsl"

#if (defined(X_F32) && defined(Y_F16)) || (defined(X_F16) && defined(Y_F32))
#define CAST(v) Y_TYPE(float(v))
#else
#define CAST(v) v
#endif

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  ivec4 p = position_of(i);
  int at = index[index_offset + dot4i(p, ivec4(index_stride0, index_stride1, index_stride2, index_stride3))];
  if (at < 0) at += axis_length;
  if (at < 0 || at >= axis_length) return;
  int from = x_offset + dot4i(p, ivec4(x_stride0, x_stride1, x_stride2, x_stride3));
  int to = y_offset + at * axis_stride + dot4i(p, ivec4(y_stride0, y_stride1, y_stride2, y_stride3));
#ifdef Y_U8
  PUT_BYTE(y, to, X_AT(from))
#else
  y[to] = CAST(x[from]);
#endif
}

#version 450
// y[y_offset + p . y_stride] = cast(x[x_offset + p . x_stride]) for every p in [size0, size1, size2, size3]; the rest of
// y keeps its bytes. Casts are torch's: towards zero from float to integer (a NaN or a value outside i32 gives the
// smallest i32), modulo 2^8 to the small integers. A copy without a cast keeps every bit.
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
  int y_offset;
  int y_stride0;
  int y_stride1;
  int y_stride2;
  int y_stride3;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = Y_BINDING) Y_ACCESS buffer Y { Y_TYPE y[]; };

#include "strides.glsl"

#if defined(X_F32) || defined(X_F16)
#define VALUE float

int to_integer(float v) {
  return abs(v) < 2147483648.0 ? int(v) : int(0x80000000u);
}
#else
#define VALUE int

int to_integer(int v) {
  return v;
}
#endif

#if defined(Y_F32) || defined(Y_F16)
#define CAST(v) Y_TYPE(float(VALUE(v)))
#else
#define CAST(v) to_integer(VALUE(v))
#endif
#if (defined(X_F32) && defined(Y_F32)) || (defined(X_F16) && defined(Y_F16)) || (defined(X_I32) && defined(Y_I32))
#undef CAST
#define CAST(v) v
#endif

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  ivec4 p = position_of(i);
  int from = x_offset + dot4i(p, ivec4(x_stride0, x_stride1, x_stride2, x_stride3));
  int to = y_offset + dot4i(p, ivec4(y_stride0, y_stride1, y_stride2, y_stride3));
#if defined(Y_U8) || defined(Y_I8)
  PUT_BYTE(y, to, to_integer(VALUE(X_AT(from))))
#else
  y[to] = CAST(X_AT(from));
#endif
}

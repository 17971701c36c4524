#version 450
// y, dense over [size0, size1, size2, size3], is x (a strided view of [x_size0, ..]) moved by before0..3, and the value
// of `bits` where x has nothing: an f32 pattern where y is f32 or f16, so that infinities can be given, otherwise the
// integer itself. A negative before cuts x off.
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
  int x_size0;
  int x_size1;
  int x_size2;
  int x_size3;
  int before0;
  int before1;
  int before2;
  int before3;
  int x_offset;
  int x_stride0;
  int x_stride1;
  int x_stride2;
  int x_stride3;
  int bits;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "strides.glsl"

#if defined(Y_F32) || defined(Y_F16)
#define VALUE intBitsToFloat(bits)
#else
#define VALUE bits
#endif

void main() {
  EACH_ELEMENT(i) {
    ivec4 p = position_of(i) - ivec4(before0, before1, before2, before3);
    if (all(greaterThanEqual(p, ivec4(0))) && all(lessThan(p, ivec4(x_size0, x_size1, x_size2, x_size3)))) {
      PUT(i, X_AT(x_offset + dot4i(p, ivec4(x_stride0, x_stride1, x_stride2, x_stride3))))
    } else {
      PUT(i, Y_TYPE(VALUE))
    }
  }
  PUT_WORD
}

#version 450
// y[i] = condition[i] ? a[i] : b[i]. y is dense over [size0, size1, size2, size3]; the others are strided views.
// Elements are copied, never computed with: every bit survives.
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
  int condition_offset;
  int condition_stride0;
  int condition_stride1;
  int condition_stride2;
  int condition_stride3;
  int a_offset;
  int a_stride0;
  int a_stride1;
  int a_stride2;
  int a_stride3;
  int b_offset;
  int b_stride0;
  int b_stride1;
  int b_stride2;
  int b_stride3;
};

layout(std430, binding = CONDITION_BINDING) readonly buffer Condition { CONDITION_TYPE condition[]; };
layout(std430, binding = A_BINDING) readonly buffer A { A_TYPE a[]; };
layout(std430, binding = B_BINDING) readonly buffer B { B_TYPE b[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "strides.glsl"

void main() {
  EACH_ELEMENT(i) {
    ivec4 p = position_of(i);
    ivec4 c = ivec4(condition_stride0, condition_stride1, condition_stride2, condition_stride3);
    if (CONDITION_AT(condition_offset + dot4i(p, c)) != 0u) {
      PUT(i, A_AT(a_offset + dot4i(p, ivec4(a_stride0, a_stride1, a_stride2, a_stride3))))
    } else {
      PUT(i, B_AT(b_offset + dot4i(p, ivec4(b_stride0, b_stride1, b_stride2, b_stride3))))
    }
  }
  PUT_WORD
}

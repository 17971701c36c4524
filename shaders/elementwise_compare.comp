#version 450
// y[i] = a[i] OP b[i] as 0 or 1. Logical operators take any element that is not 0 as true, NaN included. y is dense over
// [size0, size1, size2, size3]; a and b are strided views. With b = a, logical_nand is not and logical_or is a cast to bool.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "dense.glsl"
#include "elements.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const uint OP = 0;
layout(constant_id = 1) const uint LEVELS = 4;

layout(push_constant) uniform Push {
  uint n_elements;
  int size1;
  int size2;
  int size3;
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

layout(std430, binding = A_BINDING) readonly buffer A { A_TYPE a[]; };
layout(std430, binding = B_BINDING) readonly buffer B { B_TYPE b[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "strides.glsl"

#if defined(A_I32) || defined(A_U8)
#define VALUE int

bool is_true(int v) {
  return v != 0;
}

bool unordered(int v, int w) {
  return false;
}

int ordered(int v) {
  return v;
}
#else
#define VALUE float

// On the bits: a driver may flush a subnormal.
bool is_true(float v) {
  return (floatBitsToUint(v) << 1) != 0u;
}

bool unordered(float v, float w) {
  return max(floatBitsToUint(v) & 0x7fffffffu, floatBitsToUint(w) & 0x7fffffffu) > 0x7f800000u;
}

// An integer in the order of the floats; both zeros are 0.
int ordered(float v) {
  int magnitude = floatBitsToInt(v) & 0x7fffffff;
  return floatBitsToInt(v) < 0 ? -magnitude : magnitude;
}
#endif

bool apply(VALUE v, VALUE w) {
  switch (OP) {
    case OP_EQ: return ordered(v) == ordered(w) && !unordered(v, w);
    case OP_NE: return ordered(v) != ordered(w) || unordered(v, w);
    case OP_LT: return ordered(v) < ordered(w) && !unordered(v, w);
    case OP_LE: return ordered(v) <= ordered(w) && !unordered(v, w);
    case OP_GT: return ordered(v) > ordered(w) && !unordered(v, w);
    case OP_GE: return ordered(v) >= ordered(w) && !unordered(v, w);
    case OP_LOGICAL_AND: return is_true(v) && is_true(w);
    case OP_LOGICAL_OR: return is_true(v) || is_true(w);
    case OP_LOGICAL_XOR: return is_true(v) != is_true(w);
    case OP_LOGICAL_NAND: return !(is_true(v) && is_true(w));
  }
  return false;
}

void main() {
  EACH_ELEMENT(i) {
    ivec4 p = position_of(i);
    VALUE v = VALUE(A_AT(a_offset + dot4i(p, ivec4(a_stride0, a_stride1, a_stride2, a_stride3))));
    VALUE w = VALUE(B_AT(b_offset + dot4i(p, ivec4(b_stride0, b_stride1, b_stride2, b_stride3))));
    PUT(i, apply(v, w) ? 1u : 0u)
  }
  PUT_WORD
}

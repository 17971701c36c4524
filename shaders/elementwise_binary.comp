#version 450
// y[i] = f(a[i], b[i]) with f chosen by OP, in f32 or in i32; add and sub take alpha * b. y is dense over
// [size0, size1, size2, size3]; a and b are strided views, a stride of 0 repeats (broadcasting).
// Integer division by zero gives 0. NaN passes through minimum and maximum as in torch.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "exact.glsl"
#include "double_float.glsl"
#include "math.glsl"
#include "power.glsl"

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
  float alpha;
};

layout(std430, binding = A_BINDING) readonly buffer A { A_TYPE a[]; };
layout(std430, binding = B_BINDING) readonly buffer B { B_TYPE b[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "strides.glsl"

#ifdef Y_I32
#define VALUE int

int floor_quotient(int v, int w) {
  if (w == 0) return 0;
  int quotient = v / w;
  return quotient * w != v && ((v ^ w) < 0) ? quotient - 1 : quotient;
}

int apply(int v, int w) {
  switch (OP) {
    case OP_ADD: return v + int(alpha) * w;
    case OP_SUB: return v - int(alpha) * w;
    case OP_MUL: return v * w;
    case OP_MINIMUM: return min(v, w);
    case OP_MAXIMUM: return max(v, w);
    case OP_FLOOR_DIVIDE: return floor_quotient(v, w);
    case OP_TRUNC_DIVIDE: return w == 0 ? 0 : v / w;
    case OP_REMAINDER: return v - floor_quotient(v, w) * w;
    case OP_BITWISE_AND: return v & w;
    case OP_BITWISE_OR: return v | w;
    case OP_BITWISE_XOR: return v ^ w;
  }
  return 0;
}
#else
#define VALUE float

// Of the correctly rounded quotient: where that is an integer, an error of one unit would make it the one before.
float trunc_quotient(float v, float w) {
  uint sign = floatBitsToUint(w) & 0x80000000u;
  uint size = floatBitsToUint(w) ^ sign;
  uint x = floatBitsToUint(v);
  if (size == 0u) return is_nan(v) || x << 1 == 0u ? kNan : uintBitsToFloat((sign ^ (x & 0x80000000u)) | 0x7f800000u);
  float quotient = trunc(exact_div(v, uintBitsToFloat(size)));
  return uintBitsToFloat(floatBitsToUint(quotient) ^ sign);
}

// Vulkan promises nothing of a division by more than 2^126: where it is a product, the reciprocal may be flushed to 0.
float divided(float v, float w) {
  bool huge = abs(w) > power_of_two(100);
  float quotient = v / (huge ? w * power_of_two(-64) : w);
  return huge ? quotient * power_of_two(-64) : quotient;
}

float apply(float v, float w) {
  switch (OP) {
    case OP_ADD: return v + alpha * w;
    case OP_SUB: return v - alpha * w;
    case OP_MUL: return v * w;
    case OP_DIV: return divided(v, w);
    case OP_MINIMUM: return is_nan(v) ? v : is_nan(w) ? w : min(v, w);
    case OP_MAXIMUM: return is_nan(v) ? v : is_nan(w) ? w : max(v, w);
    case OP_POW: return power(v, w);
    case OP_TRUNC_DIVIDE: return trunc_quotient(v, w);
  }
  return kNan;
}
#endif

// EACH elements, LANES apart, all of them read before the first is written.
void main() {
  uint first = group_index() * (LANES * EACH) + gl_LocalInvocationIndex;
  VALUE v[EACH];
  VALUE w[EACH];
  [[unroll]] for (uint u = 0; u < EACH; ++u) {
    ivec4 p = position_of(min(first + u * LANES, n_elements - 1u));
    v[u] = VALUE(a[a_offset + dot4i(p, ivec4(a_stride0, a_stride1, a_stride2, a_stride3))]);
    w[u] = VALUE(b[b_offset + dot4i(p, ivec4(b_stride0, b_stride1, b_stride2, b_stride3))]);
  }
  [[unroll]] for (uint u = 0; u < EACH; ++u) {
    uint i = first + u * LANES;
    if (i < n_elements) y[i] = Y_TYPE(apply(v[u], w[u]));
  }
}

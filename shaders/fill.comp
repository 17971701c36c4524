#version 450
// y[i] = the value whose bits are `bits`: an f32 pattern where y is f32 or f16 (so that infinities and NaN can be
// given), the integer itself otherwise.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(push_constant) uniform Push {
  uint n_elements;
  int bits;
};

layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#if defined(Y_F32) || defined(Y_F16)
#define VALUE intBitsToFloat(bits)
#else
#define VALUE bits
#endif

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  y[i] = Y_TYPE(VALUE);
}

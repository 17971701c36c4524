#version 450
// y[i] = start + i * step in i32, converted to the element type of y.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(push_constant) uniform Push {
  uint n_elements;
  int start;
  int stride;
};

layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#ifdef Y_F16
#define CAST(v) Y_TYPE(float(v))
#else
#define CAST(v) Y_TYPE(v)
#endif

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  y[i] = CAST(start + int(i) * stride);
}

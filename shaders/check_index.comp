#version 450
// y[p] = x[x_offset + p . x_stride], for every p in [size0, size1, size2, size3], where that is in [low, high]; + wrap where
// it is negative besides; `outside` where it is not. The first such element is reported in faults, unless an earlier call has
// reported one: 1 + call, its place in y, its value, low, high. For indices that were computed on the device.
// One workgroup owns all, so that one invocation writes the report: atomics have the scope of the device, which not every
// driver offers beside the Vulkan memory model.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;

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
  int low;
  int high;
  int wrap;
  int outside;
  int call;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };
layout(std430, binding = FAULTS_BINDING) buffer Faults { FAULTS_TYPE faults[]; };

#include "strides.glsl"

shared uint firsts[LANES];

int value_at(uint i) {
  return x[x_offset + dot4i(position_of(i), ivec4(x_stride0, x_stride1, x_stride2, x_stride3))];
}

void main() {
  uint lane = gl_LocalInvocationIndex;
  uint first = n_elements;
  for (uint i = lane; i < n_elements; i += LANES) {
    int value = value_at(i);
    bool inside = value >= low && value <= high;
    if (!inside) first = min(first, i);
    y[i] = !inside ? outside : value < 0 ? value + wrap : value;
  }
  firsts[lane] = first;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    if (lane < width) firsts[lane] = min(firsts[lane], firsts[lane + width]);
    barrier();
  }
  if (lane != 0u || firsts[0] == n_elements || faults[0] != 0) return;
  faults[0] = call + 1;
  faults[1] = int(firsts[0]);
  faults[2] = value_at(firsts[0]);
  faults[3] = low;
  faults[4] = high;
}

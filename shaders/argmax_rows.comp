#version 450
// y[row] = index of the largest (or smallest) of the row_length elements of a row of x: the first of equal ones; the first
// NaN when there is one, as in torch. One workgroup a row.
#extension GL_GOOGLE_include_directive : require
#include "exact.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const uint OP = 0;

layout(push_constant) uniform Push {
  uint rows;
  uint row_length;
  int x_offset;
  int x_inner_rows;
  int x_outer_stride;
  int x_inner_stride;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "rows.glsl"

shared int keys[LANES];
shared int places[LANES];

const int kLargest = 0x7fffffff;

// Larger is better; for the smallest element the order is reversed.
int key_at(uint i) {
#if defined(X_F32) || defined(X_F16)
  uint bits = floatBitsToUint(float(x[i]));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return kLargest;
  int key = (bits << 1) == 0u ? 0 : float_key(bits);  // -0 equals 0
#else
  int key = int(x[i]);
#endif
  return OP == OP_ARGMAX ? key : ~key;
}

bool better(int key, int place, int other_key, int other_place) {
  return key > other_key || (key == other_key && place < other_place);
}

void main() {
  uint row = group_index();
  uint lane = gl_LocalInvocationIndex;
  uint start = row_start(min(row, rows - 1u));
  int best = ~kLargest;
  int best_place = kLargest;
  for (uint k = lane; k < row_length; k += LANES) {
    int key = key_at(start + k);
    if (better(key, int(k), best, best_place)) {
      best = key;
      best_place = int(k);
    }
  }
  keys[lane] = best;
  places[lane] = best_place;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    if (lane < width && better(keys[lane + width], places[lane + width], keys[lane], places[lane])) {
      keys[lane] = keys[lane + width];
      places[lane] = places[lane + width];
    }
    barrier();
  }
  if (lane == 0u && row < rows) y[row] = places[0];
}

#version 450
// y[row][piece][i], index[row][piece][i]: the i-th of the k best elements of a piece of a row, and its place in the row (or
// what `from` says there); -1 where a piece has fewer. Equal elements keep their order, and NaN is the largest, as in
// torch. One workgroup a piece: runs of as many elements as k needs are sorted, then the better halves of two runs are one
// again, until one is left.
#extension GL_GOOGLE_include_directive : require
#include "exact.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const uint OP = 0;

layout(push_constant) uniform Push {
  uint groups;
  uint k;
  uint row_length;
  int x_offset;
  int x_inner_rows;
  int x_outer_stride;
  int x_inner_stride;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
#ifndef FROM_NONE
layout(std430, binding = FROM_BINDING) readonly buffer From { int from[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };
layout(std430, binding = INDEX_BINDING) writeonly buffer Index { int index[]; };

#include "rows.glsl"

shared int keys[PIECE];
shared int places[PIECE];

const int kLargest = 0x7fffffff;

// Larger is better; for the smallest elements the order is reversed.
int key_at(uint i) {
#ifdef X_I32
  int key = x[i];
#else
  uint bits = floatBitsToUint(float(x[i]));
  int key = (bits << 1) == 0u ? 0 : float_key(bits);  // -0 equals 0
  if ((bits & 0x7fffffffu) > 0x7f800000u) key = kLargest;
#endif
  return OP == OP_LARGEST ? key : ~key;
}

bool precedes(uint a, uint b) {
  return keys[a] > keys[b] || (keys[a] == keys[b] && places[a] < places[b]);
}

void sort_pair(uint a, uint b) {
  if (!precedes(b, a)) return;
  int key = keys[a];
  int place = places[a];
  keys[a] = keys[b];
  places[a] = places[b];
  keys[b] = key;
  places[b] = place;
}

// Sorts runs, the first halves of which are better than the second: pairs of a distance, of half of it, and so on.
void merge(uint count, uint distance) {
  for (; distance > 0u; distance >>= 1) {
    for (uint i = gl_LocalInvocationIndex; i < count / 2u; i += LANES) {
      uint a = i / distance * distance * 2u + i % distance;
      sort_pair(a, a + distance);
    }
    barrier();
  }
}

void main() {
  uint group = min(group_index(), groups - 1u);
  uint lane = gl_LocalInvocationIndex;
  uint pieces = (row_length + PIECE - 1u) / PIECE;
  uint row = group / pieces;
  uint first = group % pieces * PIECE;
  uint start = row_start(row);
  uint run = 1u;
  while (run < min(k, PIECE)) run <<= 1;
  uint count = run;
  while (count < min(row_length, PIECE)) count <<= 1;

  for (uint i = lane; i < count; i += LANES) {
    uint place = first + i;
    bool exists = place < row_length;
#ifndef FROM_NONE
    if (exists) exists = from[row * row_length + place] >= 0;
#endif
    keys[i] = ~kLargest;
    if (exists) keys[i] = key_at(start + place);
    places[i] = exists ? int(place) : kLargest;
  }
  barrier();
  for (uint size = 2u; size <= run; size <<= 1) {
    uint half_size = size / 2u;
    for (uint i = lane; i < count / 2u; i += LANES) {
      uint from_start = i / half_size * size;
      sort_pair(from_start + i % half_size, from_start + size - 1u - i % half_size);
    }
    barrier();
    merge(count, size / 4u);
  }
  while (count > run) {
    count /= 2u;
    for (uint i = lane; i < count; i += LANES) {
      uint other = count + i / run * run + run - 1u - i % run;
      if (precedes(other, i)) {
        keys[i] = keys[other];
        places[i] = places[other];
      }
    }
    barrier();
    merge(count, run / 2u);
  }

  if (group_index() >= groups) return;
  for (uint i = lane; i < k; i += LANES) {
    int place = i < run ? places[i] : kLargest;
    bool exists = place != kLargest;
    uint at = group * k + i;
    y[at] = exists ? x[start + uint(place)] : Y_TYPE(0);
#ifdef FROM_NONE
    index[at] = exists ? place : -1;
#else
    index[at] = exists ? from[row * row_length + uint(place)] : -1;
#endif
  }
}

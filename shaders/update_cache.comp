#version 450
// cache[b, h, position(b, s), :] = x[b, s, h, :]; the rest of the cache is left as it is, and a position outside it is
// not written. lib/positions.glsl says where a token goes. An invocation copies one quad (4 elements);
// grid y is the token, z the batch entry.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;

layout(constant_id = 0) const uint QUADS = 16;

layout(push_constant) uniform Push {
  uint heads;
  uint x_first;
  uint x_row;
  uint x_head;
  uint x_batch;
  uint cache_keys;
  uint cache_row;
  uint cache_head;
  uint cache_batch;
  uint position_batch;
  uint position_row;
  uint position_step;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = POSITION_BINDING) readonly buffer Position { POSITION_TYPE position[]; };
layout(std430, binding = CACHE_BINDING) writeonly buffer Cache { CACHE_TYPE cache[]; };

#include "positions.glsl"

void main() {
  uint index = gl_GlobalInvocationID.x;
  uint s = gl_WorkGroupID.y;
  uint b = gl_WorkGroupID.z;
  int place = token_place(b, s, cache_keys);
  if (index >= heads * QUADS || place < 0 || uint(place) >= cache_keys) return;
  uint head = index / QUADS;
  uint quad = index % QUADS;
  cache[b * cache_batch + head * cache_head + uint(place) * cache_row + quad] =
      x[x_first + b * x_batch + s * x_row + head * x_head + quad];
}

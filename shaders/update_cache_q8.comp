#version 450
// Writes a token's heads into an int8 cache, symmetric and with one scale a token and head:
//   scale = max(max |x|, 1e-30) / 127, cache = clamp(rne(x * (1 / scale)), -127, 127)
// in f32, both divisions correctly rounded (lib/exact.glsl). lib/positions.glsl says where a token goes; the rest of the
// cache is left as it is, and a position outside it is not written.
// A workgroup owns one head of one token: grid (heads, tokens, batch). A word of the cache holds 4 codes.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;

layout(constant_id = 0) const uint QUADS = 16;

layout(push_constant) uniform Push {
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
layout(std430, binding = CACHE_SCALE_BINDING) writeonly buffer CacheScale { CACHE_SCALE_TYPE cache_scale[]; };

#include "exact.glsl"
#include "positions.glsl"

shared float largest[LANES];

void main() {
  uint lane = gl_LocalInvocationIndex;
  uint head = gl_WorkGroupID.x;
  uint s = gl_WorkGroupID.y;
  uint b = gl_WorkGroupID.z;
  uint from = x_first + b * x_batch + s * x_row + head * x_head;
  float own = 0.0;
  for (uint i = lane; i < QUADS; i += LANES) {
    vec4 values = abs(vec4(x[from + i]));
    own = max(own, max(max(values.x, values.y), max(values.z, values.w)));
  }
  largest[lane] = own;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    if (lane < width) largest[lane] = max(largest[lane], largest[lane + width]);
    barrier();
  }
  int place = token_place(b, s, cache_keys);
  if (place < 0 || uint(place) >= cache_keys) return;
  float scale = exact_div(max(largest[0], 1e-30), 127.0);
  float inverse = exact_div(1.0, scale);
  uint to = b * cache_batch + head * cache_head + uint(place) * cache_row;
  if (lane == 0u) cache_scale[to / QUADS] = scale;
  for (uint i = lane; i < QUADS; i += LANES) {
    ivec4 codes = ivec4(clamp(roundEven(vec4(x[from + i]) * inverse), -127.0, 127.0)) & 0xff;
    cache[to + i] = uint(codes.x | (codes.y << 8) | (codes.z << 16) | (codes.w << 24));
  }
}

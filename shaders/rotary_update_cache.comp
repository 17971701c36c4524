#version 450
// What lies between the q, k and v projections and attention, in one pass: q_out = rotary(norm(q)),
// k_cache[position] = rotary(norm(k)), v_cache[position] = v. norm is RMS norm over a head, when NORMED:
// x * inversesqrt(mean(x * x) + eps) * weight. lib/rotary.glsl gives the rotation. All in f32.
// A workgroup owns one head of one token: grid (heads + 2 * kv_heads, tokens, batch). A position outside the cache
// is not written. The rest of the caches is left as it is.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;

layout(constant_id = 0) const uint HEAD_DIM = 64;
layout(constant_id = 1) const uint NORMED = 0;

layout(push_constant) uniform Push {
  uint heads;
  uint kv_heads;
  uint q_first;
  uint q_row;
  uint q_head;
  uint q_batch;
  uint k_first;
  uint v_first;
  uint k_row;
  uint k_head;
  uint k_batch;
  uint out_row;
  uint out_head;
  uint out_batch;
  uint cache_keys;
  uint cache_row;
  uint cache_head;
  uint cache_batch;
  uint rotary_dim;
  int interleaved;
  uint table_rows;
  uint table_width;
  int table_by_position;
  uint table_batch;
  uint position_batch;
  uint position_row;
  uint position_step;
  float eps;
};

layout(std430, binding = Q_BINDING) readonly buffer Q { Q_TYPE q[]; };
layout(std430, binding = K_BINDING) readonly buffer K { K_TYPE k[]; };
layout(std430, binding = V_BINDING) readonly buffer V { V_TYPE v[]; };
layout(std430, binding = Q_NORM_BINDING) readonly buffer QNorm { Q_NORM_TYPE q_norm[]; };
layout(std430, binding = K_NORM_BINDING) readonly buffer KNorm { K_NORM_TYPE k_norm[]; };
layout(std430, binding = COS_TABLE_BINDING) readonly buffer Cos { COS_TABLE_TYPE cos_table[]; };
layout(std430, binding = SIN_TABLE_BINDING) readonly buffer Sin { SIN_TABLE_TYPE sin_table[]; };
layout(std430, binding = POSITION_BINDING) readonly buffer Position { POSITION_TYPE position[]; };
layout(std430, binding = Q_OUT_BINDING) writeonly buffer QOut { Q_OUT_TYPE q_out[]; };
layout(std430, binding = K_CACHE_BINDING) writeonly buffer KCache { K_CACHE_TYPE k_cache[]; };
layout(std430, binding = V_CACHE_BINDING) writeonly buffer VCache { V_CACHE_TYPE v_cache[]; };

#include "positions.glsl"
#include "rotary.glsl"

shared float squares[LANES];

// inversesqrt(mean(x * x) + eps) from every lane's sum of squares.
float inverse_rms(float own) {
  squares[gl_LocalInvocationIndex] = own;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    if (gl_LocalInvocationIndex < width) squares[gl_LocalInvocationIndex] += squares[gl_LocalInvocationIndex + width];
    barrier();
  }
  return inversesqrt(squares[0] / float(HEAD_DIM) + eps);
}

void turn_query(uint head, uint s, uint b) {
  uint from = q_first + b * q_batch + s * q_row + head * q_head;
  uint to = b * out_batch + s * out_row + head * out_head;
  float norm = 1.0;
  if (NORMED != 0u) {
    float own = 0.0;
    for (uint i = gl_LocalInvocationIndex; i < HEAD_DIM; i += LANES) own += float(q[from + i]) * float(q[from + i]);
    norm = inverse_rms(own);
  }
  uint row = table_row(b, s);
  for (uint pair = gl_LocalInvocationIndex; pair < HEAD_DIM / 2u; pair += LANES) {
    uvec2 elements = pair_elements(pair);
    vec2 value = vec2(float(q[from + elements.x]), float(q[from + elements.y])) * norm;
    if (NORMED != 0u) value *= vec2(q_norm[elements.x], q_norm[elements.y]);
    value = rotate(row, pair, value);
    q_out[to + elements.x] = Q_OUT_TYPE(value.x);
    q_out[to + elements.y] = Q_OUT_TYPE(value.y);
  }
}

void write_key(uint head, uint s, uint b) {
  uint from = k_first + b * k_batch + s * k_row + head * k_head;
  int place = token_position(b, s);
  bool inside = place >= 0 && uint(place) < cache_keys;
  uint to = b * cache_batch + uint(place) * cache_row + head * cache_head;
  float norm = 1.0;
  if (NORMED != 0u) {
    float own = 0.0;
    for (uint i = gl_LocalInvocationIndex; i < HEAD_DIM; i += LANES) own += float(k[from + i]) * float(k[from + i]);
    norm = inverse_rms(own);
  }
  if (!inside) return;
  uint row = table_row(b, s);
  for (uint pair = gl_LocalInvocationIndex; pair < HEAD_DIM / 2u; pair += LANES) {
    uvec2 elements = pair_elements(pair);
    vec2 value = vec2(float(k[from + elements.x]), float(k[from + elements.y])) * norm;
    if (NORMED != 0u) value *= vec2(k_norm[elements.x], k_norm[elements.y]);
    value = rotate(row, pair, value);
    k_cache[to + elements.x] = K_CACHE_TYPE(value.x);
    k_cache[to + elements.y] = K_CACHE_TYPE(value.y);
  }
}

void write_value(uint head, uint s, uint b) {
  uint from = v_first + b * k_batch + s * k_row + head * k_head;
  int place = token_position(b, s);
  if (place < 0 || uint(place) >= cache_keys) return;
  uint to = b * cache_batch + uint(place) * cache_row + head * cache_head;
  for (uint i = gl_LocalInvocationIndex; i < HEAD_DIM; i += LANES) v_cache[to + i] = v[from + i];
}

void main() {
  uint head = gl_WorkGroupID.x;
  if (head < heads) {
    turn_query(head, gl_WorkGroupID.y, gl_WorkGroupID.z);
  } else if (head < heads + kv_heads) {
    write_key(head - heads, gl_WorkGroupID.y, gl_WorkGroupID.z);
  } else {
    write_value(head - heads - kv_heads, gl_WorkGroupID.y, gl_WorkGroupID.z);
  }
}

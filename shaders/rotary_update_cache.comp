#version 450
// What lies between the q, k and v projections and attention, in one pass: q_out = rotary(norm(q)),
// k_cache[position] = rotary(norm(k)), v_cache[position] = v. lib/rotary_heads.glsl gives the norm, lib/rotary.glsl the
// rotation. All in f32.
// A workgroup owns LANES / 32 heads of one token, of q, k and v in that order: 32 invocations each. A position outside the
// cache is not written. The rest of the caches is left as it is.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

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

// Element i of a query head, or from `heads` on of a key head, of the workgroup's token.
float head_element(uint head, uint i) {
  uint s = gl_WorkGroupID.y;
  uint b = gl_WorkGroupID.z;
  if (head < heads) return float(q[q_first + b * q_batch + s * q_row + head * q_head + i]);
  return float(k[k_first + b * k_batch + s * k_row + (head - heads) * k_head + i]);
}

float head_weight(uint head, uint i) {
  return head < heads ? q_norm[i] : k_norm[i];
}

#include "rotary_heads.glsl"

uint head_lane() {
  return gl_LocalInvocationIndex % kHeadLanes;
}

void turn_query(uint head, float norm, uint s, uint b) {
  uint to = b * out_batch + s * out_row + head * out_head;
  uint row = table_row(b, s);
  for (uint pair = head_lane(); pair < HEAD_DIM / 2u; pair += kHeadLanes) {
    uvec2 elements = pair_elements(pair);
    vec2 value = turned_pair(head, norm, row, pair);
    q_out[to + elements.x] = Q_OUT_TYPE(value.x);
    q_out[to + elements.y] = Q_OUT_TYPE(value.y);
  }
}

void write_key(uint head, float norm, uint s, uint b) {
  int place = token_place(b, s, cache_keys);
  if (place < 0 || uint(place) >= cache_keys) return;
  uint to = b * cache_batch + uint(place) * cache_row + head * cache_head;
  uint row = table_row(b, s);
  for (uint pair = head_lane(); pair < HEAD_DIM / 2u; pair += kHeadLanes) {
    uvec2 elements = pair_elements(pair);
    vec2 value = turned_pair(heads + head, norm, row, pair);
    k_cache[to + elements.x] = K_CACHE_TYPE(value.x);
    k_cache[to + elements.y] = K_CACHE_TYPE(value.y);
  }
}

void write_value(uint head, uint s, uint b) {
  uint from = v_first + b * k_batch + s * k_row + head * k_head;
  int place = token_place(b, s, cache_keys);
  if (place < 0 || uint(place) >= cache_keys) return;
  uint to = b * cache_batch + uint(place) * cache_row + head * cache_head;
  for (uint i = head_lane(); i < HEAD_DIM; i += kHeadLanes) v_cache[to + i] = v[from + i];
}

void main() {
  uint head = gl_WorkGroupID.x * (LANES / kHeadLanes) + gl_LocalInvocationIndex / kHeadLanes;
  uint turned_heads = heads + kv_heads;
  float norm = 1.0;  // in uniform flow: for values, too, where teams beside theirs have others
  if (LANES > kHeadLanes || head < turned_heads) norm = head_norm(min(head, turned_heads - 1u));
  if (head < heads) {
    turn_query(head, norm, gl_WorkGroupID.y, gl_WorkGroupID.z);
  } else if (head < turned_heads) {
    write_key(head - heads, norm, gl_WorkGroupID.y, gl_WorkGroupID.z);
  } else if (head < turned_heads + kv_heads) {
    write_value(head - turned_heads, gl_WorkGroupID.y, gl_WorkGroupID.z);
  }
}

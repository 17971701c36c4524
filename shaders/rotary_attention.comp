#version 450
// One new token of every sequence: what rotary_update_cache and then attention compute, in one dispatch.
//   k_cache[position] = rotary(norm(k)), v_cache[position] = v, y = attention(rotary(norm(q)), k_cache, v_cache)
// The caches become what rotary_update_cache makes them, bit for bit; the rotated q, which no tensor holds here, is
// rounded as if one did. A workgroup owns a KV head of a sequence, grid (1, kv_heads, batch): nobody else touches its
// part of the caches. It attends over what they held, with the new token's row taken from shared memory instead, and
// writes that row when all have read. A position outside the cache is not written, nor then attended to.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x = LANES) in;

layout(constant_id = 0) const uint QUADS = 16;
layout(constant_id = 1) const uint MASKED = 0;
layout(constant_id = 2) const uint ROWS = 1;  // query heads of a KV head
layout(constant_id = 3) const uint NORMED = 0;

// Of q and k in elements; of v, the caches and y in quads.
layout(push_constant) uniform Push {
  uint q_first;
  uint q_batch;
  uint k_first;
  uint k_batch;
  uint v_first;
  uint v_batch;
  uint keys;
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
  uint start_batch;
  uint mask_key;
  uint mask_head;
  uint mask_batch;
  int causal;
  int window;
  int filled;
  float scale;
  float soft_cap;
  int nan_rows;
  float eps;
  uint y_batch;
};

layout(std430, binding = Q_BINDING) readonly buffer Q { Q_TYPE q[]; };
layout(std430, binding = K_BINDING) readonly buffer K { K_TYPE k[]; };
layout(std430, binding = V_BINDING) readonly buffer V { V_TYPE v[]; };
layout(std430, binding = Q_NORM_BINDING) readonly buffer QNorm { Q_NORM_TYPE q_norm[]; };
layout(std430, binding = K_NORM_BINDING) readonly buffer KNorm { K_NORM_TYPE k_norm[]; };
layout(std430, binding = COS_TABLE_BINDING) readonly buffer Cos { COS_TABLE_TYPE cos_table[]; };
layout(std430, binding = SIN_TABLE_BINDING) readonly buffer Sin { SIN_TABLE_TYPE sin_table[]; };
layout(std430, binding = POSITION_BINDING) readonly buffer Position { POSITION_TYPE position[]; };
layout(std430, binding = MASK_BINDING) readonly buffer Mask { MASK_TYPE mask[]; };
layout(std430, binding = K_CACHE_BINDING) buffer KCache { K_CACHE_TYPE k_cache[]; };
layout(std430, binding = V_CACHE_BINDING) buffer VCache { V_CACHE_TYPE v_cache[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

const uint HEAD_DIM = 4u * QUADS;
const uint kOutside = 0xffffffffu;

// One token: there is no stride from one to the next.
const uint position_row = 0u;
const uint position_step = 0u;
const uint mask_row = 0u;
const uint queries = 1u;
#define group ROWS

#include "attention_scores.glsl"
#include "positions.glsl"
#include "rotary.glsl"

shared vec4 new_key[MAX_QUADS];  // as its cache holds it
shared KEY_QUAD new_value[MAX_QUADS];

uint place;  // of the new token, kOutside if that is not in the cache

uint key_row(uint t) {
  return batch() * cache_batch + kv_head() * cache_head + t * cache_row;
}

KEY_QUAD read_key(uint row, uint quad) {
  return k_cache[row + quad];
}

KEY_QUAD read_value(uint row, uint quad) {
  return v_cache[row + quad];
}

vec4 decode_key(KEY_QUAD loaded, uint t, uint quad) {
  return t == place ? new_key[quad] : decode(loaded);
}

vec4 decode_value(KEY_QUAD loaded, uint t, uint quad) {
  return decode(t == place ? new_value[quad] : loaded);
}

// Element i of the group's query head, or after those of its key head.
float head_element(uint head, uint i) {
  if (head < ROWS) return float(q[q_first + batch() * q_batch + (kv_head() * ROWS + head) * HEAD_DIM + i]);
  return float(k[k_first + batch() * k_batch + kv_head() * HEAD_DIM + i]);
}

float head_weight(uint head, uint i) {
  return head < ROWS ? q_norm[i] : k_norm[i];
}

#include "attention_few.glsl"
#include "rotary_heads.glsl"

#if 9 * LANES / 8 * MAX_ROWS < 4 * MAX_QUADS * (MAX_ROWS + 1)
#error "the group's heads do not fit into team_sums"
#endif

// team_sums[head][i] = the group's turned heads, rounded as stored; attention overwrites them.
void turn_heads() {
  uint lane = gl_LocalInvocationIndex % kHeadLanes;
  uint row = table_row(batch(), 0u);
  for (uint first = 0; first <= ROWS; first += LANES / kHeadLanes) {
    uint head = first + gl_LocalInvocationIndex / kHeadLanes;
    float norm = head_norm(min(head, ROWS));
    for (uint pair = lane; head <= ROWS && pair < HEAD_DIM / 2u; pair += kHeadLanes) {
      uvec2 elements = pair_elements(pair);
      vec2 value = turned_pair(head, norm, row, pair);
      team_sums[head * HEAD_DIM + elements.x] = float(K_TYPE(value.x));
      team_sums[head * HEAD_DIM + elements.y] = float(K_TYPE(value.y));
    }
  }
}

vec4 turned_quad(uint i) {
  return vec4(team_sums[4u * i], team_sums[4u * i + 1u], team_sums[4u * i + 2u], team_sums[4u * i + 3u]);
}

void spread_heads() {
  for (uint i = gl_LocalInvocationIndex; i < ROWS * QUADS; i += LANES) query[i] = turned_quad(i) * scale;
  uint quad = gl_LocalInvocationIndex;
  if (quad < QUADS) {
    new_key[quad] = turned_quad(ROWS * QUADS + quad);
    new_value[quad] = v[v_first + batch() * v_batch + kv_head() * QUADS + quad];
  }
}

void write_caches() {
  uint quad = gl_LocalInvocationIndex;
  if (quad >= QUADS || place == kOutside) return;
  vec4 key = new_key[quad];
#ifdef K_F16
  k_cache[key_row(place) + quad] = uvec2(packHalf2x16(key.xy), packHalf2x16(key.zw));
#else
  k_cache[key_row(place) + quad] = key;
#endif
  v_cache[key_row(place) + quad] = new_value[quad];
}

void main() {
  int wanted = token_place(batch(), 0u, keys);
  place = wanted >= 0 && uint(wanted) < keys ? uint(wanted) : kOutside;
  turn_heads();
  barrier();
  spread_heads();
  clear_rows();
  barrier();
  int start = position[batch() * start_batch];
  attend(start, 0u, uvec2(key_begin(start, 0u), key_end(start, 0u)));
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    vec4 sum = sum_teams(sums[r]);
    if (gl_LocalInvocationIndex < QUADS) {
      uint index = batch() * y_batch + (kv_head() * ROWS + r) * QUADS + gl_LocalInvocationIndex;
      y[index] = Y_TYPE(sum * row_factor(row_weight[r]));
    }
  }
  groupMemoryBarrier();
  barrier();
  write_caches();
}

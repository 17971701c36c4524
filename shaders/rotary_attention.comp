#version 450
// One new token of every sequence: what rotary_update_cache and then attention compute, in one dispatch.
//   k_cache[position] = rotary(norm(k)), v_cache[position] = v, y = attention(rotary(norm(q)), k_cache, v_cache)
// The caches become what rotary_update_cache makes them, bit for bit; the rotated q, which no tensor holds here, is
// rounded as if one did. Grid (splits, kv_heads, batch): the workgroups of a KV head of a sequence take tiles of its keys
// by turns. They attend over what the caches held, with the new token's row taken from shared memory instead, which one
// of them writes. A position outside the cache is not written, nor then attended to.
// With `split_sums` there are several: each leaves its sums there, and the last to arrive, which `arrived` tells, joins them in
// their order, so that the result does not depend on which it was. It sets `arrived` to 0 again for the next dispatch.
// Whatever a workgroup reads is asked for before anything is waited for, as far as it does not depend on the position.
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
  uint turn;
  uint awaited;
};

layout(std430, binding = Q_BINDING) coherent readonly buffer Q { Q_TYPE q[]; };
layout(std430, binding = K_BINDING) coherent readonly buffer K { K_TYPE k[]; };
layout(std430, binding = V_BINDING) coherent readonly buffer V { V_TYPE v[]; };
layout(std430, binding = Q_NORM_BINDING) readonly buffer QNorm { Q_NORM_TYPE q_norm[]; };
layout(std430, binding = K_NORM_BINDING) readonly buffer KNorm { K_NORM_TYPE k_norm[]; };
layout(std430, binding = COS_TABLE_BINDING) readonly buffer Cos { COS_TABLE_TYPE cos_table[]; };
layout(std430, binding = SIN_TABLE_BINDING) readonly buffer Sin { SIN_TABLE_TYPE sin_table[]; };
layout(std430, binding = POSITION_BINDING) readonly buffer Position { POSITION_TYPE position[]; };
layout(std430, binding = MASK_BINDING) readonly buffer Mask { MASK_TYPE mask[]; };
layout(std430, binding = K_CACHE_BINDING) buffer KCache { K_CACHE_TYPE k_cache[]; };
layout(std430, binding = V_CACHE_BINDING) buffer VCache { V_CACHE_TYPE v_cache[]; };
#ifndef SPLIT_SUMS_NONE
layout(std430, binding = SPLIT_SUMS_BINDING) coherent buffer SplitSums { SPLIT_SUMS_TYPE split_sums[]; };
layout(std430, binding = ARRIVED_BINDING) coherent buffer Arrived { ARRIVED_TYPE arrived[]; };
#endif
layout(std430, binding = Y_BINDING) coherent writeonly buffer Y { Y_TYPE y[]; };
#include "turns.glsl"

const uint HEAD_DIM = 4u * QUADS;
const uint kOutside = 0xffffffffu;
const uint kTeam = LANES / TILE_N;                   // lanes that share a key's dot product
const uint kKeyQuads = (QUADS + kTeam - 1u) / kTeam;  // of a key, those of a lane
const uint kWidth = QUADS <= 8u ? 8u : QUADS <= 16u ? 16u : QUADS <= 32u ? 32u : 64u;  // lanes side by side over a value
const uint kValueTeams = LANES / kWidth;
const uint kValueKeys = TILE_N / kValueTeams;  // of a tile, those of a lane
const uint kMost = MAX_QUADS / kTeam;          // of kKeyQuads and kValueKeys
const uint kJoined = 4u;                       // rows whose sums are joined at once
const uint kRowsOfLane = MAX_ROWS * TILE_N / LANES;
const uint kPairs = MAX_QUADS / 16u;           // of a head, those of a lane

// One token: there is no stride from one to the next.
const uint position_row = 0u;
const uint position_step = 0u;
const uint mask_row = 0u;
const uint queries = 1u;
#define group ROWS

#include "attention_scores.glsl"
#include "positions.glsl"
#include "rotary.glsl"

shared vec4 query[MAX_ROWS * MAX_QUADS];
shared vec4 new_key[MAX_QUADS];  // as its cache holds it
shared KEY_QUAD new_value[MAX_QUADS];
shared vec4 pool[kJoined * LANES];  // by turns: the turned heads; parts of scores, then weights; the teams' sums
shared float pool_weights[kJoined * LANES / 8];
shared vec4 scores[MAX_ROWS * TILE_N / 4];
shared float row_largest[MAX_ROWS];
shared float row_change[MAX_ROWS];  // factor of the sums so far
#ifndef SPLIT_SUMS_NONE
shared int before_us;
#endif

uint place;   // of the new token, kOutside if that is not in the cache
int start;    // of the keys that it sees
uvec2 span;   // of them
vec4 sums[MAX_ROWS];  // this invocation's part of every row's weighted values, and of their weights
float weight_sums[MAX_ROWS];
float largest[kRowsOfLane];  // score so far, of the rows whose scores this invocation turns into weights
KEY_QUAD keys_on_way[kMost];
KEY_QUAD values_on_way[kMost];

uint key_row(uint t) {
  return batch() * cache_batch + kv_head() * cache_head + min(t, keys - 1u) * cache_row;
}

// Element i of the group's query head, or after those of its key head.
float head_element(uint head, uint i) {
  if (head < ROWS) return float(q[q_first + batch() * q_batch + (kv_head() * ROWS + head) * HEAD_DIM + i]);
  return float(k[k_first + batch() * k_batch + kv_head() * HEAD_DIM + i]);
}

float head_weight(uint head, uint i) {
  return head < ROWS ? q_norm[i] : k_norm[i];
}

#include "rotary_heads.glsl"

#if 4 * MAX_QUADS * (MAX_ROWS + 1) > 16 * 4 * LANES || MAX_ROWS * TILE_N > 4 * LANES
#error "the group's heads or scores do not fit into pool"
#endif

void load_keys(uint tile) {
  uint row = key_row(tile * TILE_N + gl_LocalInvocationIndex / kTeam);
  [[unroll]] for (uint i = 0; i < kMost; ++i) {
    if (i >= kKeyQuads) break;
    keys_on_way[i] = k_cache[row + min(gl_LocalInvocationIndex % kTeam + i * kTeam, QUADS - 1u)];
  }
}

uint value_key(uint tile, uint i) {
  return tile * TILE_N + gl_LocalInvocationIndex / kWidth + i * kValueTeams;
}

void load_values(uint tile) {
  [[unroll]] for (uint i = 0; i < kMost; ++i) {
    if (i >= kValueKeys) break;
    values_on_way[i] = v_cache[key_row(value_key(tile, i)) + min(gl_LocalInvocationIndex % kWidth, QUADS - 1u)];
  }
}

void store_turned(uint element, float value) {
  pool[element / 4u][element % 4u] = float(K_TYPE(value));
}

// pool = the group's turned heads, rounded as stored.
void turn_heads() {
  uint lane = gl_LocalInvocationIndex % kHeadLanes;
  uint row = table_row(batch(), 0u);
  vec4 angles[kPairs];
  [[unroll]] for (uint i = 0; i < kPairs; ++i) {
    if (i * kHeadLanes < HEAD_DIM / 2u) angles[i] = pair_angles(row, min(lane + i * kHeadLanes, HEAD_DIM / 2u - 1u));
  }
  for (uint first = 0; first <= ROWS; first += LANES / kHeadLanes) {
    uint head = first + gl_LocalInvocationIndex / kHeadLanes;
    uint own = min(head, ROWS);
    float norm = head_norm(own);
    [[unroll]] for (uint i = 0; i < kPairs; ++i) {
      uint pair = lane + i * kHeadLanes;
      if (head > ROWS || pair >= HEAD_DIM / 2u) break;
      uvec2 elements = pair_elements(pair);
      vec2 value = turned(pair, normed_pair(own, norm, elements), angles[i]);
      store_turned(head * HEAD_DIM + elements.x, value.x);
      store_turned(head * HEAD_DIM + elements.y, value.y);
    }
  }
}

void spread_heads(KEY_QUAD own_value) {
  for (uint i = gl_LocalInvocationIndex; i < ROWS * QUADS; i += LANES) query[i] = pool[i] * scale;
  uint quad = gl_LocalInvocationIndex;
  if (quad < QUADS) {
    new_key[quad] = pool[ROWS * QUADS + quad];
    new_value[quad] = own_value;
  }
}

// pool[r][n] = parts of the scores of key n of the tile, by its lanes.
void score_tile(uint tile) {
  uint lane = gl_LocalInvocationIndex % kTeam;
  uint n = gl_LocalInvocationIndex / kTeam;
  bool is_new = tile * TILE_N + n == place;
  float products[MAX_ROWS];
  [[unroll]] for (uint r = 0; r < ROWS; ++r) products[r] = 0.0;
  [[unroll]] for (uint i = 0; i < kMost; ++i) {
    uint quad = lane + i * kTeam;
    if (i >= kKeyQuads || quad >= QUADS) break;
    vec4 key = is_new ? new_key[quad] : decode(keys_on_way[i]);
    [[unroll]] for (uint r = 0; r < ROWS; ++r) products[r] += dot(query[r * QUADS + quad], key);
  }
  [[unroll]] for (uint r = 0; r < ROWS; ++r) pool[r * TILE_N + n][lane] = products[r];
}

// scores = those of the tile, kHidden where a row does not see the key.
void finish_scores(uint tile) {
  for (uint i = gl_LocalInvocationIndex; i < ROWS * TILE_N; i += LANES) {
    vec4 parts = pool[i];
    uint t = tile * TILE_N + i % TILE_N;
    bool inside = t >= span.x && t < span.y;
    float score = parts.x + parts.y + parts.z + parts.w;
    scores[i / 4u][i % 4u] = inside ? finish_score(score, mask_start(i / TILE_N), t) : kHidden;
  }
}

float largest_of(vec4 values) {
  return max(max(values.x, values.y), max(values.z, values.w));
}

// pool = the tile's weights; row_change scales what was summed before it.
void weigh_tile() {
  [[unroll]] for (uint j = 0; j < kRowsOfLane; ++j) {
    uint i = gl_LocalInvocationIndex + j * LANES;
    uint r = i / TILE_N;
    if (r >= ROWS) break;
    float before = largest[j];
    float now = before;
    [[unroll]] for (uint n = 0; n < TILE_N / 4u; ++n) now = max(now, largest_of(scores[r * (TILE_N / 4u) + n]));
    float own = scores[i / 4u][i % 4u];
    pool[i / 4u][i % 4u] = own == kHidden ? 0.0 : exp(own - now);
    largest[j] = now;
    if (i % TILE_N == 0u) {
      row_largest[r] = now;
      row_change[r] = exp(before - now);
    }
  }
}

void add_values(uint tile) {
  uint quad = min(gl_LocalInvocationIndex % kWidth, QUADS - 1u);
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    sums[r] *= row_change[r];
    weight_sums[r] *= row_change[r];
  }
  [[unroll]] for (uint i = 0; i < kMost; ++i) {
    if (i >= kValueKeys) break;
    uint t = value_key(tile, i);
    vec4 value = decode(t == place ? new_value[quad] : values_on_way[i]);
    if (t < span.x || t >= span.y) value = vec4(0.0);  // whatever lies there
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      uint index = r * TILE_N + t % TILE_N;
      float weight = pool[index / 4u][index % 4u];
      sums[r] += weight * value;
      weight_sums[r] += weight;
    }
  }
}

// The keys of every `step`-th tile from `tile` on, the first of which are on their way.
void attend(uint tile, uint end, uint step) {
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    sums[r] = vec4(0.0);
    weight_sums[r] = 0.0;
  }
  [[unroll]] for (uint j = 0; j < kRowsOfLane; ++j) largest[j] = kHidden;
  for (; tile < end; tile += step) {
    score_tile(tile);
    if (tile + step < end) load_keys(tile + step);
    barrier();
    finish_scores(tile);
    barrier();
    weigh_tile();
    barrier();
    add_values(tile);
    if (tile + step < end) load_values(tile + step);
    barrier();
  }
}

#ifndef SPLIT_SUMS_NONE
// First quad of a row's sums that workgroup i leaves; behind them its largest score and its sum of weights.
uint split_row(uint i, uint r) {
  uint head = batch() * gl_NumWorkGroups.y + kv_head();
  return ((head * gl_NumWorkGroups.x + i) * ROWS + r) * (QUADS + 1u);
}

// Whether this workgroup is the last of `count` to have left its sums.
bool is_last(uint count) {
  memoryBarrierBuffer();
  barrier();
  uint head = batch() * gl_NumWorkGroups.y + kv_head();
  if (gl_LocalInvocationIndex == 0u) {
    before_us = atomicAdd(arrived[head], 1);
    if (before_us == int(count) - 1) arrived[head] = 0;
  }
  barrier();
  memoryBarrierBuffer();
  return before_us == int(count) - 1;
}

// sums, from what `count` workgroups left: each team's. Those of a team's first one are on their way from the start.
void load_splits(uint count) {
  uint team = gl_LocalInvocationIndex / kWidth;
  uint quad = min(gl_LocalInvocationIndex % kWidth, QUADS - 1u);
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    sums[r] = split_sums[split_row(min(team, count - 1u), r) + quad];
    weight_sums[r] = 0.0;
  }
  for (uint i = gl_LocalInvocationIndex; i < ROWS * count; i += LANES) {
    pool[i] = split_sums[split_row(i % count, i / count) + QUADS];
  }
  barrier();
  for (uint i = gl_LocalInvocationIndex; i < ROWS * count; i += LANES) {
    float most = kHidden;
    for (uint j = 0; j < count; ++j) most = max(most, pool[i / count * count + j].x);
    pool[i].z = pool[i].y == 0.0 ? 0.0 : exp(pool[i].x - most);
  }
  barrier();
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    vec4 own = pool[r * count + min(team, count - 1u)];
    bool counts = team < count && own.z != 0.0;
    sums[r] = counts ? own.z * sums[r] : vec4(0.0);
    if (counts) weight_sums[r] = own.z * own.y;
  }
  for (uint i = team + kValueTeams; i < count; i += kValueTeams) {
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      vec4 own = pool[r * count + i];
      if (own.z == 0.0) continue;
      sums[r] += own.z * split_sums[split_row(i, r) + quad];
      weight_sums[r] += own.z * own.y;
    }
  }
  barrier();
}
#endif

// What the invocations have, added up in their order: to y, or where others have parts of it, to `split_sums`.
void finish_rows(bool is_whole) {
  uint j = gl_LocalInvocationIndex / kWidth;
  uint quad = gl_LocalInvocationIndex % kWidth;
  for (uint first = 0; first < ROWS; first += kJoined) {
    [[unroll]] for (uint i = 0; i < kJoined; ++i) {
      if (i >= ROWS) break;
      pool[i * LANES + gl_LocalInvocationIndex] = sums[min(first + i, MAX_ROWS - 1u)];
      if (quad == 0u) pool_weights[i * kValueTeams + j] = weight_sums[min(first + i, MAX_ROWS - 1u)];
    }
    barrier();
    uint r = first + j;
    if (j < kJoined && r < ROWS && quad < QUADS) {
      vec4 sum = vec4(0.0);
      float weight = 0.0;
      for (uint team = 0; team < kValueTeams; ++team) {
        sum += pool[j * LANES + team * kWidth + quad];
        weight += pool_weights[j * kValueTeams + team];
      }
      if (is_whole) {
        uint index = batch() * y_batch + (kv_head() * ROWS + r) * QUADS + quad;
        y[index] = Y_TYPE(sum * row_factor(weight));
      }
#ifndef SPLIT_SUMS_NONE
      if (!is_whole) {
        uint row = split_row(gl_WorkGroupID.x, r);
        split_sums[row + quad] = sum;
        if (quad == 0u) split_sums[row + QUADS] = vec4(row_largest[r], weight, 0.0, 0.0);
      }
#endif
    }
    barrier();
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

void find_span() {
  start = position[batch() * start_batch];
  span = uvec2(key_begin(start, 0u), key_end(start, 0u));
}

void attend_to_head() {
  uint tile = gl_WorkGroupID.x;
  if (window > 0) {
    find_span();
    tile += span.x / TILE_N;
  }
  load_keys(tile);
  load_values(tile);
  find_span();
  await_turn();
  KEY_QUAD own_value = v[v_first + batch() * v_batch + kv_head() * QUADS + min(gl_LocalInvocationIndex, QUADS - 1u)];
  uint first = span.x / TILE_N;
  uint end = max((span.y + TILE_N - 1u) / TILE_N, first + 1u);
  // Two tiles take one workgroup less time than two take to join theirs.
  uint count = end - first <= 2u ? 1u : min(end - first, gl_NumWorkGroups.x);
  if (gl_WorkGroupID.x >= count) return;
  int wanted = token_place(batch(), 0u, keys);
  place = wanted >= 0 && uint(wanted) < keys ? uint(wanted) : kOutside;
  turn_heads();
  barrier();
  spread_heads(own_value);
  barrier();
  attend(first + gl_WorkGroupID.x, end, count);
  if (gl_WorkGroupID.x == 0u) write_caches();
#ifdef SPLIT_SUMS_NONE
  finish_rows(true);
#else
  for (bool is_whole = count == 1u;; is_whole = true) {
    finish_rows(is_whole);
    if (is_whole || !is_last(count)) break;
    load_splits(count);
  }
#endif
}

void main() {
  attend_to_head();
  give_turn();
}

// What every attention kernel shares: the inputs and where they lie; attention_scores.glsl has the scores.
// A query head h of KV head h / group; lengths in quads (4 elements of a head); start = position[batch].
// i8 keys and values hold round(x / scale) with one scale a token and head.

layout(constant_id = 0) const uint QUADS = 16;
layout(constant_id = 1) const uint MASKED = 0;

layout(push_constant) uniform Push {
  uint queries;
  uint keys;
  uint group;
  uint q_first;
  uint q_row;
  uint q_head;
  uint q_batch;
  uint k_first;
  uint v_first;
  uint k_row;
  uint k_head;
  uint k_batch;
  uint mask_key;
  uint mask_row;
  uint mask_head;
  uint mask_batch;
  uint position_batch;
  int causal;
  int window;
  int filled;
  float scale;
  float soft_cap;
#ifdef PARTIAL_BINDING
  uint splits;
#else
  uint y_row;
  uint y_head;
  uint y_batch;
  int nan_rows;
#endif
};

layout(std430, binding = Q_BINDING) readonly buffer Q { Q_TYPE q[]; };
layout(std430, binding = K_BINDING) readonly buffer K { K_TYPE k[]; };
layout(std430, binding = V_BINDING) readonly buffer V { V_TYPE v[]; };
#ifdef K_I8
layout(std430, binding = K_SCALE_BINDING) readonly buffer KScale { K_SCALE_TYPE k_scale[]; };
layout(std430, binding = V_SCALE_BINDING) readonly buffer VScale { V_SCALE_TYPE v_scale[]; };
#endif
layout(std430, binding = MASK_BINDING) readonly buffer Mask { MASK_TYPE mask[]; };
layout(std430, binding = POSITION_BINDING) readonly buffer Position { POSITION_TYPE position[]; };
#ifdef PARTIAL_BINDING
layout(std430, binding = PARTIAL_BINDING) writeonly buffer Partial { PARTIAL_TYPE partial[]; };
layout(std430, binding = STATS_BINDING) writeonly buffer Stats { STATS_TYPE stats[]; };
#else
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };
#endif

#include "attention_scores.glsl"

int start_position() {
  return position[batch() * position_batch];
}

// Quad of element 0 of row `row` of this KV head: row s * group + g is query s of head kv_head * group + g.
uint query_quad(uint row) {
  return q_first + batch() * q_batch + (kv_head() * group + row % group) * q_head + row / group * q_row;
}

uint key_row(uint t) {
  return batch() * k_batch + kv_head() * k_head + t * k_row;
}

#ifdef Q_F16
#define QUERY_QUAD uvec2
vec4 decode_query(uvec2 words) {
  return from_halves(words);
}
#else
#define QUERY_QUAD vec4
vec4 decode_query(vec4 values) {
  return values;
}
#endif

KEY_QUAD read_key(uint row, uint quad) {
  return k[k_first + row + quad];
}

KEY_QUAD read_value(uint row, uint quad) {
  return v[v_first + row + quad];
}

#ifdef K_I8
// Quantized tensors are dense: a row of QUADS words for each scale.
float key_scale(uint row) {
  return k_scale[row / QUADS];
}

float value_scale(uint row) {
  return v_scale[row / QUADS];
}
#endif

#ifdef PARTIAL_BINDING
// Row of stats, and of QUADS quads in partial, of a split.
uint partial_row(uint split, uint row) {
  return ((batch() * gl_NumWorkGroups.y + kv_head()) * splits + split) * (queries * group) + row;
}

void store_sum(uint partial_index, uint quad, vec4 sum) {
  partial[partial_index * QUADS + quad] = sum;
}

// Keys [begin, end) of a split: the visible ones of all rows, in equal parts of a multiple of SPLIT_STEP keys.
uvec2 split_keys(int start, uint split) {
  uint first = key_begin(start, 0u);
  uint last = max(key_end(start, queries - 1u), first);
  uint part = ((last - first + splits - 1u) / splits + SPLIT_STEP - 1u) / SPLIT_STEP * SPLIT_STEP;
  uint begin = min(first + split * part, last);
  return uvec2(begin, min(begin + part, last));
}
#else
void store_row(uint row, uint quad, vec4 value) {
  uint index = batch() * y_batch + (kv_head() * group + row % group) * y_head + row / group * y_row + quad;
  y[index] = Y_TYPE(value);
}
#endif

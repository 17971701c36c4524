#version 450
// Attention of few query rows (lib/attention_scores.glsl says what is computed): decoding. A workgroup owns ROWS rows of
// a KV head, or of one split of its keys; lib/attention_few.glsl walks the keys.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "attention.glsl"

layout(local_size_x = LANES) in;

layout(constant_id = 2) const uint ROWS = 1;

vec4 decode_key(KEY_QUAD loaded, uint t, uint quad) {
  return decode(loaded);
}

vec4 decode_value(KEY_QUAD loaded, uint t, uint quad) {
  return decode(loaded);
}

#include "attention_few.glsl"

void load_queries(uint first_row) {
  uint last = queries * group - 1u;
  for (uint i = gl_LocalInvocationIndex; i < ROWS * QUADS; i += LANES) {
    query[i] = decode_query(q[query_quad(min(first_row + i / QUADS, last)) + i % QUADS]) * scale;
  }
}

void main() {
#ifdef PARTIAL_BINDING
  uint split = gl_WorkGroupID.x % splits;
  uint first_row = gl_WorkGroupID.x / splits * ROWS;
#else
  uint first_row = gl_WorkGroupID.x * ROWS;
#endif
  uint rows = queries * group;
  int start = start_position();
#ifdef PARTIAL_BINDING
  uvec2 span = split_keys(start, split);
#else
  uvec2 span = uvec2(key_begin(start, first_row / group), key_end(start, (min(first_row + ROWS, rows) - 1u) / group));
#endif
  load_queries(first_row);
  clear_rows();
  barrier();
  vec4 sums[MAX_ROWS];
  attend(start, first_row, span, sums);
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    uint row = first_row + r;
    vec4 sum = sum_teams(sums[r]);
    if (gl_LocalInvocationIndex < QUADS && row < rows) {
#ifdef PARTIAL_BINDING
      uint index = partial_row(split, row);
      if (gl_LocalInvocationIndex == 0u) stats[index] = vec2(row_largest[r], row_weight[r]);
      store_sum(index, gl_LocalInvocationIndex, sum);
#else
      store_row(row, gl_LocalInvocationIndex, sum * row_factor(row_weight[r]));
#endif
    }
  }
}

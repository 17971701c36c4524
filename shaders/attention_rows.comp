#version 450
// Attention for processors that run a subgroup of eight as one vector and load lane by lane (software Vulkan).
// lib/attention.glsl says what is computed. A lane owns LANE_ROWS query rows; eight quads of a key or value are loaded
// by the eight lanes, each its own, and broadcast. A workgroup is one subgroup: 8 * LANE_ROWS rows of a KV head, or of
// one split of its keys. Online softmax key by key; all sums are f32, in key order.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_ballot : require
#include "attention.glsl"

layout(local_size_x = 8) in;

const uint kBlocks = (QUADS + 7u) / 8u;

// Broadcasts need literal lanes.
#define EACH_LANE(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)

vec4 query[LANE_ROWS][MAX_QUADS];
vec4 sums[LANE_ROWS][MAX_QUADS];

void main() {
  uint rows = queries * group;
#ifdef PARTIAL_BINDING
  uint split = gl_WorkGroupID.x % splits;
  uint first_row = gl_WorkGroupID.x / splits * (8 * LANE_ROWS);
#else
  uint first_row = gl_WorkGroupID.x * (8 * LANE_ROWS);
#endif
  uint lane = gl_SubgroupInvocationID;
  int start = start_position();
  uint begin = key_begin(start, first_row / group);
  uint end = key_end(start, (min(first_row + 8 * LANE_ROWS, rows) - 1u) / group);
#ifdef PARTIAL_BINDING
  uvec2 part = split_keys(start, split);
  begin = max(begin, part.x);
  end = min(end, part.y);
#endif
  uint my_begin[LANE_ROWS];
  uint my_end[LANE_ROWS];
  uint mask_first[LANE_ROWS];
  float largest[LANE_ROWS];
  float weight_sum[LANE_ROWS];
  [[unroll]] for (uint r = 0; r < LANE_ROWS; ++r) {
    uint row = min(first_row + r * 8u + lane, rows - 1u);
    my_begin[r] = key_begin(start, row / group);
    my_end[r] = key_end(start, row / group);
    mask_first[r] = mask_start(row);
    largest[r] = kHidden;
    weight_sum[r] = 0.0;
    uint query_first = query_quad(row);
    [[unroll]] for (uint i = 0; i < QUADS; ++i) {
      query[r][i] = decode_query(q[query_first + i]) * scale;
      sums[r][i] = vec4(0.0);
    }
  }

  for (uint t = begin; t < end; ++t) {
    uint key = key_row(t);
    vec4 products[LANE_ROWS];
    [[unroll]] for (uint r = 0; r < LANE_ROWS; ++r) products[r] = vec4(0.0);
    [[unroll]] for (uint b = 0; b < kBlocks; ++b) {
      vec4 own = decode(read_key(key, min(b * 8u + lane, QUADS - 1u)));
#define MULTIPLY(j)                                                                                       \
  if (b * 8u + j < QUADS) {                                                                               \
    vec4 values = subgroupBroadcast(own, j);                                                              \
    [[unroll]] for (uint r = 0; r < LANE_ROWS; ++r) products[r] += query[r][b * 8u + j] * values;         \
  }
      EACH_LANE(MULTIPLY)
    }
    float weight[LANE_ROWS];
    float change[LANE_ROWS];
    [[unroll]] for (uint r = 0; r < LANE_ROWS; ++r) {
      float dot = (products[r].x + products[r].y) + (products[r].z + products[r].w);
#ifdef K_I8
      dot *= key_scale(key);
#endif
      float score = t >= my_begin[r] && t < my_end[r] ? finish_score(dot, mask_first[r], t) : kHidden;
      float now = max(largest[r], score);
      change[r] = exp(largest[r] - now);
      weight[r] = score == kHidden ? 0.0 : exp(score - now);
      largest[r] = now;
      weight_sum[r] = weight_sum[r] * change[r] + weight[r];
#ifdef K_I8
      weight[r] *= value_scale(key);
#endif
    }
    [[unroll]] for (uint b = 0; b < kBlocks; ++b) {
      vec4 own = decode(read_value(key, min(b * 8u + lane, QUADS - 1u)));
#define ACCUMULATE(j)                                                                 \
  if (b * 8u + j < QUADS) {                                                           \
    vec4 values = subgroupBroadcast(own, j);                                          \
    [[unroll]] for (uint r = 0; r < LANE_ROWS; ++r) {                                 \
      sums[r][b * 8u + j] = sums[r][b * 8u + j] * change[r] + weight[r] * values;     \
    }                                                                                 \
  }
      EACH_LANE(ACCUMULATE)
    }
  }

  [[unroll]] for (uint r = 0; r < LANE_ROWS; ++r) {
    uint row = first_row + r * 8u + lane;
    if (row < rows) {
#ifdef PARTIAL_BINDING
      uint index = partial_row(split, row);
      stats[index] = vec2(largest[r], weight_sum[r]);
      [[unroll]] for (uint i = 0; i < QUADS; ++i) store_sum(index, i, sums[r][i]);
#else
      float row_scale = row_factor(weight_sum[r]);
      [[unroll]] for (uint i = 0; i < QUADS; ++i) store_row(row, i, sums[r][i] * row_scale);
#endif
    }
  }
}

#version 450
// Attention with one invocation a query row (lib/attention.glsl says what is computed), online softmax key by key.
// Every key and value is read at an address that the whole workgroup shares: for processors, where that is one scalar
// load. A workgroup owns LANES rows of a KV head, or of one split of its keys. All sums are f32, in key order.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "attention.glsl"

layout(local_size_x = LANES) in;

vec4 query[MAX_QUADS];
vec4 sums[MAX_QUADS];

void main() {
  uint rows = queries * group;
#ifdef PARTIAL_BINDING
  uint split = gl_WorkGroupID.x % splits;
  uint first_row = gl_WorkGroupID.x / splits * LANES;
#else
  uint first_row = gl_WorkGroupID.x * LANES;
#endif
  uint row = min(first_row + gl_LocalInvocationIndex, rows - 1u);
  uint s = row / group;
  int start = start_position();
  uint begin = key_begin(start, first_row / group);
  uint end = key_end(start, (min(first_row + LANES, rows) - 1u) / group);
#ifdef PARTIAL_BINDING
  uvec2 part = split_keys(start, split);
  begin = max(begin, part.x);
  end = min(end, part.y);
#endif
  uint my_begin = key_begin(start, s);
  uint my_end = key_end(start, s);
  uint mask_first = mask_start(row);
  uint query_first = query_quad(row);
  [[unroll]] for (uint i = 0; i < QUADS; ++i) {
    query[i] = vec4(q[query_first + i]) * scale;
    sums[i] = vec4(0.0);
  }
  float largest = kHidden;
  float weight_sum = 0.0;
  for (uint t = begin; t < end; ++t) {
    uint key = key_row(t);
    vec4 products = vec4(0.0);
    [[unroll]] for (uint i = 0; i < QUADS; ++i) products += query[i] * load_key(key, i);
    float dot = (products.x + products.y) + (products.z + products.w);
#ifdef K_I8
    dot *= key_scale(key);
#endif
    float score = t >= my_begin && t < my_end ? finish_score(dot, mask_first, t) : kHidden;
    float new_largest = max(largest, score);
    float factor = exp(largest - new_largest);
    float weight = score == kHidden ? 0.0 : exp(score - new_largest);
    largest = new_largest;
    weight_sum = weight_sum * factor + weight;
#ifdef K_I8
    weight *= value_scale(key);
#endif
    [[unroll]] for (uint i = 0; i < QUADS; ++i) sums[i] = sums[i] * factor + weight * load_value(key, i);
  }
  if (first_row + gl_LocalInvocationIndex >= rows) return;
#ifdef PARTIAL_BINDING
  uint index = partial_row(split, row);
  stats[index] = vec2(largest, weight_sum);
  [[unroll]] for (uint i = 0; i < QUADS; ++i) store_sum(index, i, sums[i]);
#else
  float row_scale = row_factor(weight_sum);
  [[unroll]] for (uint i = 0; i < QUADS; ++i) store_row(row, i, sums[i] * row_scale);
#endif
}

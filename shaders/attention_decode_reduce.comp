#version 450
// y[row] = sum_i e_i * partial[i, row] / sum_i e_i * w_i, e_i = exp(m_i - max m): joins the splits of
// attention_decode_partial. stats[i, row] = (m_i, w_i): the largest score and the sum of weights of a split. A row that
// sees no key is 0, as torch's scaled_dot_product_attention gives, or NaN, as its softmax gives.
// A workgroup owns a row: grid (queries * group, KV heads, batch); lanes over the head's quads, teams over the splits.
// Sums are f32, in split order within a team and then in team order.
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x = LANES) in;

layout(constant_id = 0) const uint QUADS = 16;

layout(push_constant) uniform Push {
  uint group;
  uint splits;
  uint y_row;
  uint y_head;
  uint y_batch;
  int nan_rows;
};

layout(std430, binding = PARTIAL_BINDING) readonly buffer Partial { PARTIAL_TYPE partial[]; };
layout(std430, binding = STATS_BINDING) readonly buffer Stats { STATS_TYPE stats[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

const float kHidden = -3.4028235e38;
const uint kBatch = 4u;  // splits read at once

shared float team_largest[LANES];
shared float team_weight[LANES];
shared vec4 team_sum[LANES];

float largest_of_all(uint first, uint rows) {
  float own = kHidden;
  for (uint i = gl_LocalInvocationIndex; i < splits; i += LANES) own = max(own, stats[first + i * rows].x);
  team_largest[gl_LocalInvocationIndex] = own;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    uint lane = gl_LocalInvocationIndex;
    if (lane < width) team_largest[lane] = max(team_largest[lane], team_largest[lane + width]);
    barrier();
  }
  return team_largest[0];
}

void main() {
  uint row = gl_WorkGroupID.x;
  uint rows = gl_NumWorkGroups.x;
  uint first = (gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * splits * rows + row;
  uint width = QUADS <= 8u ? 8u : QUADS <= 16u ? 16u : QUADS <= 32u ? 32u : 64u;
  uint quad = gl_LocalInvocationIndex % width;
  uint team = gl_LocalInvocationIndex / width;
  uint teams = LANES / width;
  float largest = largest_of_all(first, rows);
  float weight = 0.0;
  vec4 sum = vec4(0.0);
  for (uint split = team; split < splits; split += kBatch * teams) {
    vec2 found[kBatch];
    vec4 parts[kBatch];
    [[unroll]] for (uint i = 0; i < kBatch; ++i) {
      uint index = first + min(split + i * teams, splits - 1u) * rows;
      found[i] = stats[index];
      parts[i] = partial[index * QUADS + min(quad, QUADS - 1u)];
    }
    [[unroll]] for (uint i = 0; i < kBatch; ++i) {
      float factor = found[i].y == 0.0 || split + i * teams >= splits ? 0.0 : exp(found[i].x - largest);
      weight += factor * found[i].y;
      sum += factor * parts[i];
    }
  }
  team_weight[gl_LocalInvocationIndex] = weight;
  team_sum[gl_LocalInvocationIndex] = sum;
  barrier();
  if (gl_LocalInvocationIndex >= QUADS) return;
  weight = 0.0;
  sum = vec4(0.0);
  for (uint i = 0; i < teams; ++i) {
    weight += team_weight[i * width + gl_LocalInvocationIndex];
    sum += team_sum[i * width + gl_LocalInvocationIndex];
  }
  bool is_nan = weight != weight || (weight == 0.0 && nan_rows != 0);
  float row_scale = is_nan ? uintBitsToFloat(0x7fc00000u) : weight == 0.0 ? 0.0 : 1.0 / weight;
  uint head = gl_WorkGroupID.y * group + row % group;
  uint index = gl_WorkGroupID.z * y_batch + head * y_head + row / group * y_row + gl_LocalInvocationIndex;
  y[index] = Y_TYPE(sum * row_scale);
}

#version 450
// y[row] = sum_i e_i * partial[i, row] / sum_i e_i * w_i, e_i = exp(m_i - max m): joins the splits of attention_decode_partial.
// stats[i, row] = (m_i, w_i): the largest score and the sum of weights of a split. Added in split order, f32. A row that
// sees no key is 0, as torch's scaled_dot_product_attention gives, or NaN, as its softmax gives.
// A workgroup owns a row: grid (queries * group, KV heads, batch).
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

void main() {
  uint row = gl_WorkGroupID.x;
  uint rows = gl_NumWorkGroups.x;
  uint quad = gl_LocalInvocationIndex;
  uint first = (gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * splits * rows + row;
  float largest = kHidden;
  for (uint i = 0; i < splits; ++i) largest = max(largest, stats[first + i * rows].x);
  float weight_sum = 0.0;
  vec4 sum = vec4(0.0);
  for (uint i = 0; i < splits; ++i) {
    uint index = first + i * rows;
    vec2 found = stats[index];
    if (found.y == 0.0) continue;
    float factor = exp(found.x - largest);
    weight_sum += factor * found.y;
    if (quad < QUADS) sum += factor * partial[index * QUADS + quad];
  }
  if (quad >= QUADS) return;
  bool is_nan = weight_sum != weight_sum || (weight_sum == 0.0 && nan_rows != 0);
  float row_scale = is_nan ? uintBitsToFloat(0x7fc00000u) : weight_sum == 0.0 ? 0.0 : 1.0 / weight_sum;
  uint head = gl_WorkGroupID.y * group + row % group;
  y[gl_WorkGroupID.z * y_batch + head * y_head + row / group * y_row + quad] = Y_TYPE(sum * row_scale);
}

#version 450
// The function of linear_dq8ca.comp for processors that run a subgroup of eight as one vector and load lane by lane
// (software Vulkan): each lane loads its own part of q once and broadcasts it, and the integers ride in f32, where
// they are exact (every sum over a step of at most 128 stays below 2^24).
// A workgroup is one subgroup; it owns 16 outputs (two a lane) of ROWS rows. The sum over steps is f32, in blocks of 16.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require

layout(local_size_x = 8) in;

layout(constant_id = 0) const uint STEP = 32;

layout(push_constant) uniform Push {
  uint rows;
  uint outputs;
  uint steps;
  uint packed_length;
};

layout(std430, binding = Q_BINDING) readonly buffer Q { Q_TYPE q[]; };
#ifdef SCALE_IMAGE
layout(binding = SCALE_BINDING, SCALE_FORMAT) uniform readonly SCALE_IMAGE_TYPE scale;
#else
layout(std430, binding = SCALE_BINDING) readonly buffer Scale { SCALE_TYPE scale[]; };
#endif
#ifdef ZP_IMAGE
layout(binding = ZP_BINDING, ZP_FORMAT) uniform readonly ZP_IMAGE_TYPE zp;
#else
layout(std430, binding = ZP_BINDING) readonly buffer Zp { ZP_TYPE zp[]; };
#endif
layout(std430, binding = W_BINDING) readonly buffer W { W_TYPE w[]; };
layout(std430, binding = W_SCALE_BINDING) readonly buffer WScale { W_SCALE_TYPE w_scale[]; };
#ifndef W_SUM_NONE
layout(std430, binding = W_SUM_BINDING) readonly buffer WSum { W_SUM_TYPE w_sum[]; };
#endif
#ifndef W_ZP_NONE
layout(std430, binding = W_ZP_BINDING) readonly buffer WZp { W_ZP_TYPE w_zp[]; };
layout(std430, binding = GROUP_SUMS_BINDING) readonly buffer GroupSums { GROUP_SUMS_TYPE group_sums[]; };
#endif
#ifndef BIAS_NONE
layout(std430, binding = BIAS_BINDING) readonly buffer Bias { BIAS_TYPE bias[]; };
#endif
#ifndef RESIDUAL_NONE
layout(std430, binding = RESIDUAL_BINDING) readonly buffer Residual { RESIDUAL_TYPE residual[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "qparams.glsl"

// Expands M for every row. Broadcasts need literal lanes, so loops over rows are written out.
#if ROWS == 8
#define EACH_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#else
#define EACH_ROW(M) M(0)
#endif

float first_dots[ROWS];
float second_dots[ROWS];
float first_sums[ROWS];
float second_sums[ROWS];
float first_totals[ROWS];  // of whole blocks of 16 steps: a plain sum of 512 steps would be 1e-6 off
float second_totals[ROWS];
// Of the row that this lane loads. Without w_sum it is int8, and the codes lose it before they are multiplied.
float zero_point;
uint own_row;
uint first_column;
uint second_column;

float signed_byte(uvec4 words, uint i) {
  return float(int(words[i / 4u] << (24u - 8u * (i % 4u))) >> 24);
}

// Weight i of the 16 in half `h` of a chunk.
#ifdef W_I4
float weight(uvec4 low, uvec4 high, uint h, uint i) {
  uint word = low[2u * h + i / 8u];
  uint nibble = (i % 8u) < 4u ? 8u * (i % 4u) : 8u * (i % 4u) + 4u;
  return float(int(word << (28u - nibble)) >> 28);
}
#else
float weight(uvec4 low, uvec4 high, uint h, uint i) {
  return signed_byte(h == 0u ? low : high, i);
}
#endif

void finish_step(uint s) {
  if (s >= steps) return;
  uint a = s * outputs + first_column;
  uint b = s * outputs + second_column;
  float first_scale = W_SCALE_AT(a);
  float second_scale = W_SCALE_AT(b);
#ifndef W_SUM_NONE
  float first_sum = float(w_sum[a]);
  float second_sum = float(w_sum[b]);
#define SUM_TERM(sum) -row_zero * sum
#else
#define SUM_TERM(sum)
#endif
#ifndef W_ZP_NONE
  float first_zero = float(w_zp[a]);
  float second_zero = float(w_zp[b]);
  float group_sum = float(group_sums[own_row * steps + s]);
#endif
#ifdef W_ZP_I32
#define GROUP_TERM(zero, r) -zero * subgroupBroadcast(group_sum, r)
#else
#define GROUP_TERM(zero, r)
#endif
#ifdef W_ZP_F32
#define ZERO_TERM(zero, r) -zero * (subgroupBroadcast(group_sum, r) - row_zero * float(STEP))
#else
#define ZERO_TERM(zero, r)
#endif
#define FINISH(r)                                                                                          \
  {                                                                                                        \
    float row_zero = subgroupBroadcast(zero_point, r);                                                     \
    first_sums[r] += first_scale * (first_dots[r] SUM_TERM(first_sum) GROUP_TERM(first_zero, r))           \
                     ZERO_TERM(first_zero, r);                                                             \
    second_sums[r] += second_scale * (second_dots[r] SUM_TERM(second_sum) GROUP_TERM(second_zero, r))      \
                      ZERO_TERM(second_zero, r);                                                           \
    first_dots[r] = 0.0;                                                                                   \
    second_dots[r] = 0.0;                                                                                  \
  }
  EACH_ROW(FINISH)
  if (s % 16u == 15u || s == steps - 1u) {
#define FOLD(r)                         \
  first_totals[r] += first_sums[r];     \
  second_totals[r] += second_sums[r];   \
  first_sums[r] = 0.0;                  \
  second_sums[r] = 0.0;
    EACH_ROW(FOLD)
  }
}

#ifdef W_SUM_NONE
#define OWN(code) (code - zero_point)
#else
#define OWN(code) code
#endif

#define MAC(r)                                        \
  {                                                   \
    float value = subgroupBroadcast(own, SOURCE(r));  \
    first_dots[r] += value * first_weight;            \
    second_dots[r] += value * second_weight;          \
  }
// The 16 positions of half h of chunk c: `words` holds the lane's q for them.
#define HALF(c, h)                                                    \
  [[unroll]] for (uint i = 0; i < 16u; ++i) {                         \
    float own = OWN(signed_byte(words, i));                           \
    float first_weight = weight(first_low, first_high, h, i);         \
    float second_weight = weight(second_low, second_high, h, i);      \
    EACH_ROW(MAC)                                                     \
    uint end = (c)*32u + h * 16u + i + 1u;                            \
    if (i % 8u == 7u && end % STEP == 0u) finish_step(end / STEP - 1u); \
  }

#ifdef W_I4
#define LOAD_WEIGHTS(c)                            \
  uvec4 first_low = w[(c)*outputs + first_column];   \
  uvec4 second_low = w[(c)*outputs + second_column]; \
  uvec4 first_high = first_low;                    \
  uvec4 second_high = second_low;
#else
#define LOAD_WEIGHTS(c)                                      \
  uvec4 first_low = w[2u * (c)*outputs + first_column];        \
  uvec4 second_low = w[2u * (c)*outputs + second_column];      \
  uvec4 first_high = w[(2u * (c) + 1u) * outputs + first_column]; \
  uvec4 second_high = w[(2u * (c) + 1u) * outputs + second_column];
#endif

void accumulate() {
  uint chunks = packed_length / 32u;
  uint base = own_row * (packed_length / 16u);
#if ROWS == 8
#define SOURCE(r) r
  for (uint c = 0; c < chunks; ++c) {
    LOAD_WEIGHTS(c)
    uvec4 words = q[base + 2u * c];
    HALF(c, 0u)
    words = q[base + 2u * c + 1u];
    HALF(c, 1u)
  }
#else
  for (uint block = 0; block < chunks; block += 4u) {
    uvec4 words = q[base + min(2u * block + gl_SubgroupInvocationID, 2u * chunks - 1u)];
#define SOURCE(r) 0
    { LOAD_WEIGHTS(block) HALF(block, 0u)
#undef SOURCE
#define SOURCE(r) 1
    HALF(block, 1u) }
#undef SOURCE
#define SOURCE(r) 2
    if (block + 1u < chunks) { LOAD_WEIGHTS(block + 1u) HALF(block + 1u, 0u)
#undef SOURCE
#define SOURCE(r) 3
    HALF(block + 1u, 1u) }
#undef SOURCE
#define SOURCE(r) 4
    if (block + 2u < chunks) { LOAD_WEIGHTS(block + 2u) HALF(block + 2u, 0u)
#undef SOURCE
#define SOURCE(r) 5
    HALF(block + 2u, 1u) }
#undef SOURCE
#define SOURCE(r) 6
    if (block + 3u < chunks) { LOAD_WEIGHTS(block + 3u) HALF(block + 3u, 0u)
#undef SOURCE
#define SOURCE(r) 7
    HALF(block + 3u, 1u) }
  }
#endif
}

void store(uint row, uint n, float token_scale, float sum) {
  if (row >= rows || n >= outputs) return;
  precise float value = token_scale * sum;
#ifndef BIAS_NONE
  value += bias[n];
#endif
  // A scale that overflowed dequantizes to inf * 0 in torch: the row is NaN.
  if ((floatBitsToUint(token_scale) & 0x7f800000u) == 0x7f800000u) value = uintBitsToFloat(0x7fc00000u);
#ifndef RESIDUAL_NONE
  value += float(residual[row * outputs + n]);
#endif
  y[row * outputs + n] = Y_TYPE(value);
}

void main() {
  uint column = gl_WorkGroupID.x * 16u + gl_SubgroupInvocationID;
  first_column = min(column, outputs - 1u);
  second_column = min(column + 8u, outputs - 1u);
  uint first_row = (gl_WorkGroupID.y + gl_WorkGroupID.z * gl_NumWorkGroups.y) * ROWS;
  own_row = min(first_row + gl_SubgroupInvocationID % ROWS, rows - 1u);
  zero_point = float(load_zero_point(own_row));
  float token_scale = load_scale(own_row);
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    first_dots[r] = 0.0;
    second_dots[r] = 0.0;
    first_sums[r] = 0.0;
    second_sums[r] = 0.0;
    first_totals[r] = 0.0;
    second_totals[r] = 0.0;
  }
  accumulate();
#define STORE(r)                                                 \
  {                                                              \
    float row_scale = subgroupBroadcast(token_scale, r);         \
    store(first_row + r, column, row_scale, first_totals[r]);    \
    store(first_row + r, column + 8u, row_scale, second_totals[r]); \
  }
  EACH_ROW(STORE)
}

#version 450
// y[m, n] = scale[m] * sum_s w_scale[s, n] * (dot(q, w) - zp[m] * w_sum[s, n] - w_zp[s, n] * group_sums[m, s]) + bias[n],
// and + residual[m, n] where it is given, w_sum being the sum of w over the step, added up here where it is not given,
// or, where w_zp is a float, ... w_scale[s, n] * (dot(q, w) - zp[m] * w_sum[s, n]) - w_zp[s, n] * (group_sums[m, s] - zp[m] * STEP)
// q [M, Kp] int8, w int4 or int8 in chunks of 32 (section 4 of the design). The parenthesis is exact in int32; the sum over
// steps of STEP positions is f32, in blocks of 16. A workgroup owns TILE_N outputs of ROWS rows; its SPLIT_K slices of the
// reduction are added in a fixed order. Serves GEMV and tiled.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "int8_dot.glsl"

layout(local_size_x = TILE_N, local_size_y = SPLIT_K) in;

layout(constant_id = 0) const uint STEP = 32;
layout(constant_id = 1) const uint ROWS = 1;

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
#include "packed_weight.glsl"

#if SPLIT_K > 1
shared float partial[SPLIT_K][MAX_ROWS][OUTPUTS * TILE_N];
#endif

// Of an invocation's OUTPUTS, TILE_N apart: each value of q that it reads serves all.
float sums[OUTPUTS][MAX_ROWS];
float totals[OUTPUTS][MAX_ROWS];  // of whole blocks of 16 steps: a plain sum of 512 steps would be 1e-6 off
int dots[OUTPUTS][MAX_ROWS];
int weight_sums[OUTPUTS];  // of the step, where w_sum is not given; shifted as dots are
uint columns[OUTPUTS];
int zero_points[MAX_ROWS];
uint row_index[MAX_ROWS];

void fold() {
  [[unroll]] for (uint o = 0; o < OUTPUTS; ++o) {
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      totals[o][r] += sums[o][r];
      sums[o][r] = 0.0;
    }
  }
}

// Adds the finished integer sums of step s to every row's float sum.
void finish_step(uint s) {
  [[unroll]] for (uint o = 0; o < OUTPUTS; ++o) {
    uint place = s * outputs + columns[o];
    float step_scale = W_SCALE_AT(place);
#ifdef W_SUM_NONE
    int step_sum = weight_sums[o] >> kWeightShift;
    weight_sums[o] = 0;
#else
    int step_sum = w_sum[place];
#endif
#ifndef W_ZP_NONE
    W_ZP_TYPE step_zero_point = w_zp[place];
#endif
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      int value = (dots[o][r] >> kWeightShift) - zero_points[r] * step_sum;
#ifdef W_ZP_I32
      value -= step_zero_point * group_sums[row_index[r] * steps + s];
#endif
      sums[o][r] += step_scale * float(value);
#ifdef W_ZP_F32
      sums[o][r] -= step_zero_point * float(group_sums[row_index[r] * steps + s] - zero_points[r] * int(STEP));
#endif
      dots[o][r] = 0;
    }
  }
  if (s / SPLIT_K % 16u == 15u) fold();
}

void add_words(uint c, int words[OUTPUTS][8], uint first, uint count) {
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    uint base = (row_index[r] * packed_length + c * 32u) / 16u;
    uvec4 low = q[base];
    uvec4 high = q[base + 1u];
    [[unroll]] for (uint o = 0; o < OUTPUTS; ++o) {
      int dot = dots[o][r];
      [[unroll]] for (uint j = 0; j < 8u; ++j) {
        if (j >= first && j < first + count) dot = dot4(int(j < 4u ? low[j & 3u] : high[j & 3u]), words[o][j], dot);
      }
      dots[o][r] = dot;
    }
  }
#ifdef W_SUM_NONE
  [[unroll]] for (uint o = 0; o < OUTPUTS; ++o) {
    [[unroll]] for (uint j = 0; j < 8u; ++j) {
      if (j >= first && j < first + count) weight_sums[o] = dot4(words[o][j], 0x01010101, weight_sums[o]);
    }
  }
#endif
}

void load_words(uint c, out int words[OUTPUTS][8]) {
  [[unroll]] for (uint o = 0; o < OUTPUTS; ++o) load_weight_chunk(c, columns[o], outputs, words[o]);
}

void accumulate(uint slice) {
  int words[OUTPUTS][8];
  if (STEP >= 32u) {
    for (uint s = slice; s < steps; s += SPLIT_K) {
      for (uint c = s * (STEP / 32u); c < (s + 1u) * (STEP / 32u); ++c) {
        load_words(c, words);
        add_words(c, words, 0u, 8u);
      }
      finish_step(s);
    }
    return;
  }
  for (uint c = slice; c < packed_length / 32u; c += SPLIT_K) {
    load_words(c, words);
    [[unroll]] for (uint first = 0; first < 8u; first += STEP / 4u) {
      uint s = c * (32u / STEP) + first / (STEP / 4u);
      if (s < steps) {
        add_words(c, words, first, STEP / 4u);
        finish_step(s);
      }
    }
  }
}

void store(uint row, uint n, float sum) {
  float token_scale = load_scale(row);
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
  uint first_column = gl_WorkGroupID.x * (OUTPUTS * TILE_N) + gl_LocalInvocationID.x;
  uint slice = gl_LocalInvocationID.y;
  uint first_row = (gl_WorkGroupID.y + gl_WorkGroupID.z * gl_NumWorkGroups.y) * ROWS;
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    row_index[r] = min(first_row + r, rows - 1u);
    zero_points[r] = load_zero_point(row_index[r]);
  }
  [[unroll]] for (uint o = 0; o < OUTPUTS; ++o) {
    columns[o] = min(first_column + o * TILE_N, outputs - 1u);
    weight_sums[o] = 0;
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      sums[o][r] = 0.0;
      totals[o][r] = 0.0;
      dots[o][r] = 0;
    }
  }
  accumulate(slice);
  fold();
#if SPLIT_K > 1
  [[unroll]] for (uint o = 0; o < OUTPUTS; ++o) {
    [[unroll]] for (uint r = 0; r < ROWS; ++r) partial[slice][r][gl_LocalInvocationID.x + o * TILE_N] = totals[o][r];
  }
  barrier();
  for (uint i = slice; i < ROWS * OUTPUTS; i += SPLIT_K) {
    uint o = i / max(ROWS, 1u);
    uint r = i - o * ROWS;
    uint lane = gl_LocalInvocationID.x + o * TILE_N;
    uint column = first_column + o * TILE_N;
    float sum = 0.0;
    [[unroll]] for (uint k = 0; k < SPLIT_K; ++k) sum += partial[k][r][lane];
    if (column < outputs && first_row + r < rows) store(first_row + r, column, sum);
  }
#else
  [[unroll]] for (uint o = 0; o < OUTPUTS; ++o) {
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      uint column = first_column + o * TILE_N;
      if (column < outputs && first_row + r < rows) store(first_row + r, column, totals[o][r]);
    }
  }
#endif
}

#version 450
// Weight-only linear: y[m, n] = sum_s w_scale[s, n] * sum_{k in s} x[m, k] * (w[k, n] - w_zp[s, n]) + bias[n]
// or, where w_zp is a float, sum_s sum_{k in s} x[m, k] * (w_scale[s, n] * w[k, n] - w_zp[s, n]) + bias[n]
// x [M, K] float, w int4 or int8 in chunks of 32 (section 4 of the design); products and sums are f32. A workgroup owns
// TILE_N outputs of up to MAX_ROWS rows; its SPLIT_K slices of the reduction are added in a fixed order.
// Serves every M.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "elements.glsl"
#include "exact.glsl"

layout(local_size_x = TILE_N, local_size_y = SPLIT_K) in;

layout(constant_id = 0) const uint STEP = 32;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const uint GROUP_SIZE = 32;
layout(constant_id = 3) const uint GROUP_PADDED = 32;

layout(push_constant) uniform Push {
  uint rows;
  uint outputs;
  uint steps;
  uint row_length;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = W_BINDING) readonly buffer W { W_TYPE w[]; };
layout(std430, binding = W_SCALE_BINDING) readonly buffer WScale { W_SCALE_TYPE w_scale[]; };
#ifndef W_ZP_NONE
layout(std430, binding = W_ZP_BINDING) readonly buffer WZp { W_ZP_TYPE w_zp[]; };
#endif
#ifndef BIAS_NONE
layout(std430, binding = BIAS_BINDING) readonly buffer Bias { BIAS_TYPE bias[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "activation.glsl"
#include "packed_weight.glsl"

shared float partial[SPLIT_K][MAX_ROWS][TILE_N];

float sums[MAX_ROWS];
float dots[MAX_ROWS];
uint row_index[MAX_ROWS];

// What makes weights of a step's codes.
struct Zero {
#ifdef W_ZP_F32
  float scale;
  float term;
#else
  int point;
#endif
};

void finish_step(uint s, uint n) {
#ifdef W_ZP_F32
  const float step_scale = 1.0;  // the weights have it
#else
  float step_scale = W_SCALE_AT(s * outputs + n);
#endif
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    sums[r] += step_scale * dots[r];
    dots[r] = 0.0;
  }
}

// Adds x * (w - zero_point) over words [first, first + count) of chunk c; positions of the padding hold no k.
void add_words(uint c, int words[8], uint first, uint count, Zero zero) {
  for (uint j = first; j < first + count; ++j) {
    [[unroll]] for (uint b = 0; b < 4u; ++b) {
      uint p = c * 32u + j * 4u + b;
      uint within = p % GROUP_PADDED;
      uint k = p / GROUP_PADDED * GROUP_SIZE + within;
      if (within < GROUP_SIZE && k < row_length) {
        int code = bitfieldExtract(words[j], int(8u * b), 8) >> kWeightShift;
#ifdef W_ZP_F32
        float weight = zero.scale * float(code) - zero.term;
#else
        float weight = float(code - zero.point);
#endif
        [[unroll]] for (uint r = 0; r < ROWS; ++r) {
          dots[r] += uintBitsToFloat(load_x_bits(row_index[r] * row_length + k)) * weight;
        }
      }
    }
  }
}

Zero step_zero(uint s, uint n) {
#ifdef W_ZP_NONE
  return Zero(0);
#elif defined(W_ZP_F32)
  return Zero(W_SCALE_AT(s * outputs + n), w_zp[s * outputs + n]);
#else
  return Zero(w_zp[s * outputs + n]);
#endif
}

void accumulate(uint n, uint slice) {
  int words[8];
  if (STEP >= 32u) {
    for (uint s = slice; s < steps; s += SPLIT_K) {
      Zero zero = step_zero(s, n);
      for (uint c = s * (STEP / 32u); c < (s + 1u) * (STEP / 32u); ++c) {
        load_weight_chunk(c, n, outputs, words);
        add_words(c, words, 0u, 8u, zero);
      }
      finish_step(s, n);
    }
    return;
  }
  for (uint s = slice; s < steps; s += SPLIT_K) {
    load_weight_chunk(s * STEP / 32u, n, outputs, words);
    add_words(s * STEP / 32u, words, s * STEP % 32u / 4u, STEP / 4u, step_zero(s, n));
    finish_step(s, n);
  }
}

void main() {
  uint column = gl_WorkGroupID.x * TILE_N + gl_LocalInvocationID.x;
  uint n = min(column, outputs - 1u);
  uint slice = gl_LocalInvocationID.y;
  uint first_row = (gl_WorkGroupID.y + gl_WorkGroupID.z * gl_NumWorkGroups.y) * ROWS;
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    row_index[r] = min(first_row + r, rows - 1u);
    sums[r] = 0.0;
    dots[r] = 0.0;
  }
  accumulate(n, slice);
  [[unroll]] for (uint r = 0; r < ROWS; ++r) partial[slice][r][gl_LocalInvocationID.x] = sums[r];
  barrier();
  for (uint r = slice; r < ROWS; r += SPLIT_K) {
    float sum = 0.0;
    [[unroll]] for (uint i = 0; i < SPLIT_K; ++i) sum += partial[i][r][gl_LocalInvocationID.x];
#ifndef BIAS_NONE
    sum += bias[n];
#endif
    if (column < outputs && first_row + r < rows) y[(first_row + r) * outputs + column] = Y_TYPE(sum);
  }
}

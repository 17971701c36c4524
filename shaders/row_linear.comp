#version 450
// What quantize_rows and linear_dq8ca do for one row, in one dispatch, and what may follow: a gated activation of the two
// halves of the outputs, or the addition of a residual.
//   v = linear(quantized(norm(x)))      PROLOGUE: see lib/row_values.glsl
//   y = v,  y = v + residual,  or with GATED y[n] = f(v[n]) * v[n + outputs], f chosen by OP
// Every workgroup quantizes the row for itself, into shared memory: reading it again costs less than waiting for another
// dispatch. Codes, dot products and the order of the sums are those of the separate kernels.
// Serves row_linear_q4gsw and row_linear_q8gsw.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "exact.glsl"
#include "double_float.glsl"
#include "int8_dot.glsl"
#include "math.glsl"
#include "reduce.glsl"
#include "rms.glsl"

layout(local_size_x = TILE_N, local_size_y = SPLIT_K) in;

layout(constant_id = 0) const uint PROLOGUE = 0;
layout(constant_id = 1) const uint GATED = 0;
layout(constant_id = 2) const uint OP = 0;
layout(constant_id = 3) const int ROUNDING = 0;
layout(constant_id = 4) const uint STEP = 32;
layout(constant_id = 5) const uint GROUP_SIZE = 32;
layout(constant_id = 6) const uint GROUP_PADDED = 32;

layout(push_constant) uniform Push {
  uint row_length;
  uint x_offset;
  uint outputs;  // of y
  uint steps;
  uint packed_length;
  float norm_eps;
  float weight_offset;
  int mapping;
  int qmin;
  int qmax;
  float eps;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = WEIGHT_BINDING) readonly buffer Weight { WEIGHT_TYPE weight[]; };
layout(std430, binding = W_BINDING) readonly buffer W { W_TYPE w[]; };
layout(std430, binding = W_SCALE_BINDING) readonly buffer WScale { W_SCALE_TYPE w_scale[]; };
layout(std430, binding = W_SUM_BINDING) readonly buffer WSum { W_SUM_TYPE w_sum[]; };
#ifndef W_ZP_NONE
layout(std430, binding = W_ZP_BINDING) readonly buffer WZp { W_ZP_TYPE w_zp[]; };
#endif
#ifndef BIAS_NONE
layout(std430, binding = BIAS_BINDING) readonly buffer Bias { BIAS_TYPE bias[]; };
#endif
#ifndef RESIDUAL_NONE
layout(std430, binding = RESIDUAL_BINDING) readonly buffer Residual { RESIDUAL_TYPE residual[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "activation.glsl"
#include "activations.glsl"
#include "choose_qparams.glsl"
#include "packed_weight.glsl"
#include "quantize.glsl"
#include "row_qparams.glsl"
#include "row_values.glsl"

const uint kColumns = GATED != 0u ? 2u : 1u;  // that an invocation owns: n, and its partner in the second half

shared uint codes[MAX_K / 4];
shared float partial[2][SPLIT_K][TILE_N];

float sums[2];
float totals[2];  // of whole blocks of 16 steps, as in linear_dq8ca.comp
int dots[2];
int code_sum;  // of the step; only beside weights with zero points

// Fills `codes` and gives the row's scale and zero point.
void quantize_row(out float scale_value, out int zero_point) {
  uint lane = gl_LocalInvocationIndex;
  float factor = row_factor(x_offset);
  int lo = 0;
  int hi = 0;
  for (uint k = lane; k < row_length; k += LANES) include_value(row_value_bits(x_offset, k, factor), lo, hi);
  choose_for_row(lo, hi, scale_value, zero_point);
  float inverse = exact_div(1.0, scale_value);
  for (uint i = lane; i < packed_length / 4u; i += LANES) {
    uint word = 0u;
    for (uint j = 0; j < 4u; ++j) {
      uint k = source_index(4u * i + j);
      int value = 0;
      if (k < row_length) value = quantized(row_value_bits(x_offset, k, factor), scale_value, inverse, zero_point);
      word |= (uint(value) & 0xffu) << (8u * j);
    }
    codes[i] = word;
  }
  barrier();
}

void finish_step(uint s, uint columns[2], int zero_point) {
  uint width = outputs * kColumns;
  [[unroll]] for (uint c = 0; c < 2u; ++c) {
    if (c >= kColumns) break;
    uint index = s * width + columns[c];
    int value = (dots[c] >> kWeightShift) - zero_point * w_sum[index];
#ifndef W_ZP_NONE
    value -= w_zp[index] * code_sum;
#endif
    sums[c] += float(w_scale[index]) * float(value);
    dots[c] = 0;
  }
  code_sum = 0;
  if (s / SPLIT_K % 16u == 15u) {
    [[unroll]] for (uint c = 0; c < 2u; ++c) {
      totals[c] += sums[c];
      sums[c] = 0.0;
    }
  }
}

// Words [first, first + count) of chunk c.
void add_words(uint c, int own[8], int partner[8], uint first, uint count) {
  [[unroll]] for (uint j = 0; j < 8u; ++j) {
    if (j < first || j >= first + count) continue;
    int word = int(codes[c * 8u + j]);
    dots[0] = dot4(word, own[j], dots[0]);
    if (GATED != 0u) dots[1] = dot4(word, partner[j], dots[1]);
#ifndef W_ZP_NONE
    code_sum = dot4(word, 0x01010101, code_sum);
#endif
  }
}

void accumulate(uint columns[2], uint slice, int zero_point) {
  uint width = outputs * kColumns;
  int own[8];
  int partner[8];
  if (STEP >= 32u) {
    for (uint s = slice; s < steps; s += SPLIT_K) {
      for (uint c = s * (STEP / 32u); c < (s + 1u) * (STEP / 32u); ++c) {
        load_weight_chunk(c, columns[0], width, own);
        if (GATED != 0u) load_weight_chunk(c, columns[1], width, partner);
        add_words(c, own, partner, 0u, 8u);
      }
      finish_step(s, columns, zero_point);
    }
    return;
  }
  for (uint c = slice; c < packed_length / 32u; c += SPLIT_K) {
    load_weight_chunk(c, columns[0], width, own);
    if (GATED != 0u) load_weight_chunk(c, columns[1], width, partner);
    [[unroll]] for (uint first = 0; first < 8u; first += STEP / 4u) {
      uint s = c * (32u / STEP) + first / (STEP / 4u);
      if (s < steps) {
        add_words(c, own, partner, first, STEP / 4u);
        finish_step(s, columns, zero_point);
      }
    }
  }
}

// The linear's output in column c of this invocation.
float output_value(uint c, uint column, float scale_value) {
  float sum = 0.0;
  [[unroll]] for (uint i = 0; i < SPLIT_K; ++i) sum += partial[c][i][gl_LocalInvocationID.x];
  precise float value = scale_value * sum;
#ifndef BIAS_NONE
  value += bias[column];
#endif
  // A scale that overflowed dequantizes to inf * 0 in torch: the row is NaN.
  return is_finite_bits(floatBitsToUint(scale_value)) ? value : uintBitsToFloat(kNanBits);
}

void main() {
  float scale_value;
  int zero_point;
  quantize_row(scale_value, zero_point);
  uint n = gl_WorkGroupID.x * TILE_N + gl_LocalInvocationID.x;
  uint slice = gl_LocalInvocationID.y;
  uint columns[2] = {min(n, outputs - 1u), min(n, outputs - 1u) + outputs};
  code_sum = 0;
  [[unroll]] for (uint c = 0; c < 2u; ++c) {
    sums[c] = 0.0;
    totals[c] = 0.0;
    dots[c] = 0;
  }
  accumulate(columns, slice, zero_point);
  [[unroll]] for (uint c = 0; c < 2u; ++c) partial[c][slice][gl_LocalInvocationID.x] = totals[c] + sums[c];
  barrier();
  if (slice != 0u || n >= outputs) return;
  precise float value = output_value(0u, n, scale_value);
  if (GATED != 0u) value = activate(value) * output_value(1u, n + outputs, scale_value);
#ifndef RESIDUAL_NONE
  value = value + float(residual[n]);
#endif
  y[n] = Y_TYPE(value);
}

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
layout(constant_id = 7) const uint ROW_LENGTH = 64;  // known lengths let the driver unroll, and load ahead
layout(constant_id = 8) const uint PACKED_LENGTH = 64;
layout(constant_id = 9) const uint STEPS = 2;

layout(push_constant) uniform Push {
  uint x_offset;
  uint outputs;  // of y
  float norm_eps;
  float weight_offset;
  int mapping;
  int qmin;
  int qmax;
  float eps;
};

#define row_length ROW_LENGTH

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
#include "quantize.glsl"
#include "row_qparams.glsl"
#include "row_values.glsl"

#ifdef W_I4
const int kWeightShift = 4;
#else
const int kWeightShift = 0;
#endif
const uint kColumns = GATED != 0u ? 2u : 1u;              // that an invocation owns: n, and its partner in the second half
const uint kStepChunks = STEP >= 32u ? STEP / 32u : 1u;  // chunks of 32 positions; of shorter steps there are several in one
const uint kBatch = 4u;                                  // chunks whose weights are on their way at once

shared uint codes[MAX_K / 4];
shared float partial[2][SPLIT_K][TILE_N];

uint own_columns[2];
int zero_point;
float sums[2];
float totals[2];  // of whole blocks of 16 steps, as in linear_dq8ca.comp
int dots[2];
int code_sum;  // of the step; only beside weights with zero points

// Fills `codes` and gives the row's scale and zero point.
void quantize_row(out float scale_value, out int row_zero_point) {
  uint lane = gl_LocalInvocationIndex;
  float factor = row_factor(x_offset);
  int lo = 0;
  int hi = 0;
  for (uint k = lane; k < ROW_LENGTH; k += LANES) include_value(row_value_bits(x_offset, k, factor), lo, hi);
  choose_for_row(lo, hi, scale_value, row_zero_point);
  float inverse = exact_div(1.0, scale_value);
  for (uint i = lane; i < PACKED_LENGTH / 4u; i += LANES) {
    uint word = 0u;
    for (uint j = 0; j < 4u; ++j) {
      uint k = source_index(4u * i + j);
      int value = 0;
      if (k < row_length) value = quantized(row_value_bits(x_offset, k, factor), scale_value, inverse, row_zero_point);
      word |= (uint(value) & 0xffu) << (8u * j);
    }
    codes[i] = word;
  }
  barrier();
}

// What an invocation reads of a chunk.
struct Chunk {
  uvec4 words[2];
#ifdef W_I8
  uvec4 more[2];
#endif
  float scales[2];
  int sums[2];
};

// The chunk that slice `slice` works on as its i-th.
uint chunk_index(uint slice, uint i) {
  return (slice + i / kStepChunks * SPLIT_K) * kStepChunks + i % kStepChunks;
}

Chunk load_chunk(uint c) {
  Chunk chunk;
  uint width = outputs * kColumns;
  uint at = min(c, PACKED_LENGTH / 32u - 1u);
  uint s = min(at / kStepChunks, STEPS - 1u);
  [[unroll]] for (uint own = 0; own < 2u; ++own) {
    if (own >= kColumns) break;
#ifdef W_I8
    chunk.words[own] = w[2u * at * width + own_columns[own]];
    chunk.more[own] = w[(2u * at + 1u) * width + own_columns[own]];
#else
    chunk.words[own] = w[at * width + own_columns[own]];
#endif
    if (STEP >= 32u) {
      chunk.scales[own] = float(w_scale[s * width + own_columns[own]]);
      chunk.sums[own] = w_sum[s * width + own_columns[own]];
    }
  }
  return chunk;
}

// Weights of four positions, as words of signed bytes; four-bit ones times 16.
int weight_word(Chunk chunk, uint own, uint j) {
#ifdef W_I8
  return int(j < 4u ? chunk.words[own][j] : chunk.more[own][j - 4u]);
#else
  uint word = chunk.words[own][j / 2u];
  return int((j % 2u == 0u ? word << 4 : word) & 0xf0f0f0f0u);
#endif
}

void finish_step(uint s, float scales[2], int weight_sums[2]) {
  [[unroll]] for (uint own = 0; own < 2u; ++own) {
    if (own >= kColumns) break;
    int value = (dots[own] >> kWeightShift) - zero_point * weight_sums[own];
#ifndef W_ZP_NONE
    value -= w_zp[s * outputs * kColumns + own_columns[own]] * code_sum;
#endif
    sums[own] += scales[own] * float(value);
    dots[own] = 0;
  }
  code_sum = 0;
  if (s / SPLIT_K % 16u == 15u) {
    [[unroll]] for (uint own = 0; own < 2u; ++own) {
      totals[own] += sums[own];
      sums[own] = 0.0;
    }
  }
}

// Words [first, first + count) of chunk c.
void add_words(Chunk chunk, uint c, uint first, uint count) {
  [[unroll]] for (uint j = 0; j < 8u; ++j) {
    if (j < first || j >= first + count) continue;
    int word = int(codes[c * 8u + j]);
    dots[0] = dot4(word, weight_word(chunk, 0u, j), dots[0]);
    if (GATED != 0u) dots[1] = dot4(word, weight_word(chunk, 1u, j), dots[1]);
#ifndef W_ZP_NONE
    code_sum = dot4(word, 0x01010101, code_sum);
#endif
  }
}

void add_chunk(Chunk chunk, uint c) {
  if (STEP >= 32u) {
    uint s = c / kStepChunks;
    if (s >= STEPS) return;
    add_words(chunk, c, 0u, 8u);
    if (c % kStepChunks == kStepChunks - 1u) finish_step(s, chunk.scales, chunk.sums);
    return;
  }
  [[unroll]] for (uint first = 0; first < 8u; first += 2u) {
    if (first % (STEP / 4u) != 0u) continue;
    uint s = c * (32u / STEP) + first / (STEP / 4u);
    if (s >= STEPS) return;
    float scales[2];
    int weight_sums[2];
    [[unroll]] for (uint own = 0; own < kColumns; ++own) {
      uint index = s * outputs * kColumns + own_columns[own];
      scales[own] = float(w_scale[index]);
      weight_sums[own] = w_sum[index];
    }
    add_words(chunk, c, first, STEP / 4u);
    finish_step(s, scales, weight_sums);
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
  uint n = gl_WorkGroupID.x * TILE_N + gl_LocalInvocationID.x;
  uint slice = gl_LocalInvocationID.y;
  own_columns[0] = min(n, outputs - 1u);
  own_columns[1] = own_columns[0] + outputs;
  Chunk chunks[kBatch];  // the first ones are on their way while the row is quantized
  [[unroll]] for (uint i = 0; i < kBatch; ++i) chunks[i] = load_chunk(chunk_index(slice, i));
  float scale_value;
  quantize_row(scale_value, zero_point);
  code_sum = 0;
  [[unroll]] for (uint own = 0; own < 2u; ++own) {
    sums[own] = 0.0;
    totals[own] = 0.0;
    dots[own] = 0;
  }
  for (uint first = 0; chunk_index(slice, first) < PACKED_LENGTH / 32u; first += kBatch) {
    Chunk next[kBatch];
    [[unroll]] for (uint i = 0; i < kBatch; ++i) next[i] = load_chunk(chunk_index(slice, first + kBatch + i));
    [[unroll]] for (uint i = 0; i < kBatch; ++i) {
      uint c = chunk_index(slice, first + i);
      if (c < PACKED_LENGTH / 32u) add_chunk(chunks[i], c);
    }
    [[unroll]] for (uint i = 0; i < kBatch; ++i) chunks[i] = next[i];
  }
  [[unroll]] for (uint own = 0; own < 2u; ++own) {
    partial[own][slice][gl_LocalInvocationID.x] = totals[own] + sums[own];
  }
  barrier();
  if (slice != 0u || n >= outputs) return;
  precise float value = output_value(0u, n, scale_value);
  if (GATED != 0u) value = activate(value) * output_value(1u, n + outputs, scale_value);
#ifndef RESIDUAL_NONE
  value = value + float(residual[n]);
#endif
  y[n] = Y_TYPE(value);
}

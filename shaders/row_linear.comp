#version 450
// What quantize_rows and linear_dq8ca do for one row, in one dispatch, and what may follow: a gated activation of the two
// halves of the outputs, or the addition of a residual.
//   v = linear(quantized(norm(x)))      PROLOGUE: see lib/row_values.glsl
//   y = v,  y = v + residual,  or with GATED y[n] = f(v[n]) * v[n + outputs], f chosen by OP
// Every workgroup quantizes the row for itself, into shared memory: reading it again costs less than waiting for another
// dispatch. Codes and dot products are those of the separate kernels, and where SPLIT_K is theirs, the order of the sums.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUPS
layout(constant_id = 13) const uint SUBGROUP = 32;
#endif
#include "exact.glsl"
#include "double_float.glsl"
#include "elements.glsl"
#include "int8_dot.glsl"
#include "math.glsl"
#include "reduce.glsl"
#include "rms.glsl"

#if defined(W_I8) && defined(BATCH_I8)
#undef BATCH
#define BATCH BATCH_I8
#endif
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
layout(constant_id = 10) const uint X_OFFSET = 0;
layout(constant_id = 11) const int MAPPING = 0;
layout(constant_id = 12) const uint TILES = 1;  // of TILE_N outputs that a workgroup makes, one after the other

layout(push_constant) uniform Push {
  uint outputs;  // of y
  float norm_eps;
  float weight_offset;
  int qmin;
  int qmax;
  float eps;
  uint turn;
  uint awaited;
};

#define row_length ROW_LENGTH
#define mapping MAPPING

layout(std430, binding = X_BINDING) coherent readonly buffer X { X_TYPE x[]; };
layout(std430, binding = WEIGHT_BINDING) coherent readonly buffer Weight { WEIGHT_TYPE weight[]; };
// Weights are read once, past the cache of a core: `coherent`.
layout(std430, binding = W_BINDING) coherent readonly buffer W { W_TYPE w[]; };
layout(std430, binding = W_SCALE_BINDING) coherent readonly buffer WScale { W_SCALE_TYPE w_scale[]; };
#ifndef W_SUM_NONE
layout(std430, binding = W_SUM_BINDING) coherent readonly buffer WSum { W_SUM_TYPE w_sum[]; };
#endif
#ifndef W_ZP_NONE
layout(std430, binding = W_ZP_BINDING) readonly buffer WZp { W_ZP_TYPE w_zp[]; };
#endif
#ifndef BIAS_NONE
layout(std430, binding = BIAS_BINDING) readonly buffer Bias { BIAS_TYPE bias[]; };
#endif
#ifndef RESIDUAL_NONE
layout(std430, binding = RESIDUAL_BINDING) coherent readonly buffer Residual { RESIDUAL_TYPE residual[]; };
#endif
layout(std430, binding = Y_BINDING) coherent writeonly buffer Y { Y_TYPE y[]; };
#include "turns.glsl"

#include "quads.glsl"
#include "activations.glsl"
#include "choose_qparams.glsl"
#include "quantize.glsl"
#include "row_qparams.glsl"
#include "row_values.glsl"
#include "kept_row.glsl"

#ifdef W_I4
const int kWeightShift = 4;
#else
const int kWeightShift = 0;
#endif
const uint kColumns = GATED != 0u ? 2u : 1u;              // that an invocation owns: n, and its partner in the second half
const uint kStepChunks = STEP >= 32u ? STEP / 32u : 1u;  // chunks of 32 positions; of shorter steps there are several in one
const uint kChunks = PACKED_LENGTH / 32u;
const uint kSteps = (kChunks + kStepChunks - 1u) / kStepChunks;                  // or chunks, where a step is shorter
const uint kSliceChunks = (kSteps + SPLIT_K - 1u) / SPLIT_K * kStepChunks;       // that an invocation works on
const uint kBatches = (kSliceChunks + BATCH - 1u) / BATCH;

shared uvec4 codes[MAX_K / 16];
shared float partial[TURNS][2][SPLIT_K][TILE_N];

uint own_columns[2];
int zero_point;
float sums[2];
float totals[2];  // of whole blocks of 16 steps, as in linear_dq8ca.comp
int dots[2];
int weight_dots[2];  // with ones, where w_sum is not given
int code_sum;  // of the step; only beside weights with zero points

void store_word(uint at, uint word) {
  codes[at / 4u][at % 4u] = word;
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

Chunk chunks[BATCH];  // on their way

// The chunk that slice `slice` works on as its i-th.
uint chunk_index(uint i) {
  return (gl_LocalInvocationID.y + i / kStepChunks * SPLIT_K) * kStepChunks + i % kStepChunks;
}

uint column_of(uint tile) {
  return (gl_WorkGroupID.x * TILES + tile) * TILE_N + gl_LocalInvocationID.x;
}

// Asks for the i-th chunk of a tile, into place i % BATCH.
void load_chunk(uint tile, uint i, uint place) {
  bool is_idle = kSteps % SPLIT_K != 0u && chunk_index(i) >= kChunks;  // of slices that have fewer
  if (any(bvec3(tile >= TILES, i >= kSliceChunks, is_idle))) return;
  uint width = outputs * kColumns;
  uint at = min(chunk_index(i), kChunks - 1u);
  uint s = min(at / kStepChunks, STEPS - 1u);
  uint n = min(column_of(tile), outputs - 1u);
  [[unroll]] for (uint own = 0; own < 2u; ++own) {
    if (own >= kColumns) break;
    uint column = n + own * outputs;
#ifdef W_I8
    chunks[place].words[own] = w[2u * at * width + column];
    chunks[place].more[own] = w[(2u * at + 1u) * width + column];
#else
    chunks[place].words[own] = w[at * width + column];
#endif
    if (STEP >= 32u) {
      chunks[place].scales[own] = W_SCALE_AT(s * width + column);
#ifndef W_SUM_NONE
      chunks[place].sums[own] = w_sum[s * width + column];
#endif
    }
  }
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
#ifdef W_SUM_NONE
    weight_sums[own] = weight_dots[own] >> kWeightShift;
    weight_dots[own] = 0;
#endif
    int value = (dots[own] >> kWeightShift) - zero_point * weight_sums[own];
#ifdef W_ZP_I32
    value -= w_zp[s * outputs * kColumns + own_columns[own]] * code_sum;
#endif
    sums[own] += scales[own] * float(value);
#ifdef W_ZP_F32
    sums[own] -= w_zp[s * outputs * kColumns + own_columns[own]] * float(code_sum - zero_point * int(STEP));
#endif
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
  uvec4 low = codes[2u * c];
  uvec4 high = codes[2u * c + 1u];
  [[unroll]] for (uint j = 0; j < 8u; ++j) {
    if (j < first || j >= first + count) continue;
    int word = int(j < 4u ? low[j & 3u] : high[j & 3u]);
    [[unroll]] for (uint own = 0; own < 2u; ++own) {
      if (own >= kColumns) break;
      int weights = weight_word(chunk, own, j);
      dots[own] = dot4(word, weights, dots[own]);
#ifdef W_SUM_NONE
      weight_dots[own] = dot4(weights, 0x01010101, weight_dots[own]);
#endif
    }
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
    if (c % kStepChunks != kStepChunks - 1u) return;
    finish_step(s, chunk.scales, chunk.sums);
    return;
  }
  [[unroll]] for (uint first = 0; first < 8u; first += 2u) {
    if (first % (STEP / 4u) != 0u) continue;
    uint s = c * (32u / STEP) + first / (STEP / 4u);
    if (s >= STEPS) return;
    add_words(chunk, c, first, STEP / 4u);
    float scales[2];
    int weight_sums[2];
    [[unroll]] for (uint own = 0; own < 2u; ++own) {
      if (own >= kColumns) break;
      uint index = s * outputs * kColumns + own_columns[own];
      scales[own] = W_SCALE_AT(index);
#ifndef W_SUM_NONE
      weight_sums[own] = w_sum[index];
#endif
    }
    finish_step(s, scales, weight_sums);
  }
}

void clear_sums() {
  code_sum = 0;
  [[unroll]] for (uint own = 0; own < 2u; ++own) {
    sums[own] = 0.0;
    totals[own] = 0.0;
    dots[own] = 0;
    weight_dots[own] = 0;
  }
}

// The linear's output in column c of this invocation.
float output_value(uint turn, uint c, float bias_value, float scale_value) {
  float sum = 0.0;
  [[unroll]] for (uint i = 0; i < SPLIT_K; ++i) sum += partial[turn][c][i][gl_LocalInvocationID.x];
  precise float value = scale_value * sum;
#ifndef BIAS_NONE
  value += bias_value;
#endif
  // A scale that overflowed dequantizes to inf * 0 in torch: the row is NaN.
  return is_finite_bits(floatBitsToUint(scale_value)) ? value : uintBitsToFloat(kNanBits);
}

void main() {
  [[unroll]] for (uint i = 0; i < BATCH; ++i) load_chunk(0u, i, i);
  await_turn();
  load_row(X_OFFSET);
  float scale_value;
  quantize_row(X_OFFSET, scale_value, zero_point);
  barrier();
  for (uint tile = 0; tile < TILES; ++tile) {
    uint n = column_of(tile);
    if (n - gl_LocalInvocationID.x >= outputs) break;
    own_columns[0] = min(n, outputs - 1u);
    own_columns[1] = own_columns[0] + outputs;
    float biases[2];
#ifndef BIAS_NONE
    [[unroll]] for (uint own = 0; own < kColumns; ++own) biases[own] = bias[own_columns[own]];
#endif
#ifndef RESIDUAL_NONE
    float added = float(residual[own_columns[0]]);
#endif
    clear_sums();
    for (uint first = 0; first < kBatches * BATCH; first += BATCH) {
      bool is_last = first + BATCH >= kBatches * BATCH;
      [[unroll]] for (uint i = 0; i < BATCH; ++i) {
        Chunk chunk = chunks[i];
        load_chunk(is_last ? tile + 1u : tile, is_last ? i : first + BATCH + i, i);
        uint c = chunk_index(first + i);
        if (first + i < kSliceChunks && c < kChunks) add_chunk(chunk, c);
      }
    }
    uint turn = tile % TURNS;
    if (TURNS == 1) barrier();  // the last tile's are read
    [[unroll]] for (uint own = 0; own < kColumns; ++own) {
      partial[turn][own][gl_LocalInvocationID.y][gl_LocalInvocationID.x] = totals[own] + sums[own];
    }
    barrier();
    // Other invocations for each tile: none is behind the rest for long.
    if (gl_LocalInvocationID.y == tile * (SPLIT_K / 8u) % SPLIT_K && n < outputs) {
      precise float value = output_value(turn, 0u, biases[0], scale_value);
      if (GATED != 0u) value = activate(value) * output_value(turn, 1u, biases[1], scale_value);
#ifndef RESIDUAL_NONE
      value = value + added;
#endif
      y[n] = Y_TYPE(value);
    }
  }
  give_turn();
}

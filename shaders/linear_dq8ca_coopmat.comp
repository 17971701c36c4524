#version 450
// linear_dq8ca.comp's function of many rows on cooperative matrices: A = q - zp and the weights are integers that f16 holds
// exactly, their products and the sums over a chunk of 32 positions are exact in f32 (below 2^24), and only the sum of
// w_scale[s, n] * chunk is rounded. A workgroup owns TILE_M x TILE_N outputs. Its subgroups of 32 are SLICES times a grid of
// GRID_M x GRID_N. An iteration puts SLICES * DEPTH chunks into shared memory, slice i multiplies DEPTH of them from
// i * DEPTH on, and at the end the slices are added up in order.
// A chunk is two products of 16 positions: words 0 and 2 of each 16 bytes of q, then words 1 and 3, in the order 0 2 1 3, as
// that is how a byte of w holds nibbles, of positions k and k + 4. Operands lie in shared memory as halves; nibbles lie two
// by two, and each subgroup unpacks those it loads, which takes fewer instructions and half the memory.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

#define LANES (32 * SLICES * GRID_M * GRID_N)
#define CHUNKS (SLICES * DEPTH)
#ifdef W_I4
#define WEIGHT_UNITS 2  // of 16 bytes, in a column's part of a chunk
#else
#define WEIGHT_UNITS 4
#endif
#define LEFT_STRIDE (4 * CHUNKS + 1)  // odd: rows of 16 bytes fall into different banks
#define RIGHT_STRIDE (WEIGHT_UNITS * CHUNKS + 1)
#define RIGHT_START (TILE_M * LEFT_STRIDE)
#define TILE_SIZE (RIGHT_START + TILE_N * RIGHT_STRIDE)
#define SUM_STRIDE (TILE_N / 4 + 1)
#define SUM_SIZE (16 * GRID_M * SUM_STRIDE)
#define STORAGE (TILE_SIZE > SUM_SIZE ? TILE_SIZE : SUM_SIZE)

layout(local_size_x = LANES) in;

layout(constant_id = 0) const uint STEP = 32;

layout(push_constant) uniform Push {
  uint rows;
  uint outputs;
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
#ifndef BIAS_NONE
layout(std430, binding = BIAS_BINDING) readonly buffer Bias { BIAS_TYPE bias[]; };
#endif
#ifndef RESIDUAL_NONE
layout(std430, binding = RESIDUAL_BINDING) readonly buffer Residual { RESIDUAL_TYPE residual[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

shared uvec4 tile[STORAGE];
shared vec4 tile_scale[CHUNKS * TILE_N / 4];

#include "coopmat.glsl"
#include "qparams.glsl"

const uint kLeftParts = TILE_M * CHUNKS;  // the 32 positions of a chunk in a row of q, or in a column of w
const uint kParts = (TILE_M + TILE_N) * CHUNKS;
const uint kOwn = (kParts + LANES - 1) / LANES;
const uint kDown = TILE_M / (16 * GRID_M);  // matrices of a subgroup
const uint kAcross = TILE_N / (16 * GRID_N);
const int kWidest = 128;  // zero points of int8 codes lie within

const uint kBytes = 0x00ff00ffu;  // 0 and 2 of a word

#ifdef W_SCALE_F16
#define SCALE_WORD uvec2  // two halves, and by how much the one lies above

uvec2 scale_word(uint i) {
  return uvec2(w_scale[i / 2u], i % 2u * 16u);
}

float scale_of(uvec2 word) {
  return unpackHalf2x16(word.x >> word.y).x;
}
#else
#define SCALE_WORD float

float scale_word(uint i) {
  return w_scale[i];
}

float scale_of(float word) {
  return word;
}
#endif

uvec4 words[2 * kOwn];  // this invocation's parts of the next iteration, on their way
SCALE_WORD next_scale[kOwn];  // as it is stored: what converts it waits for it
uint place[kOwn];       // of a part in q, or in w
f16vec2 less[kOwn];     // what unpacking bytes takes away
uint zero;              // a 0 that no compiler sees: constants plus it are in registers, and `and` with `xor` one instruction
SUM_MATRIX sums[kDown * kAcross];

uint part(uint i) {
  return i * LANES + gl_LocalInvocationIndex;
}

// For a whole subgroup, and where it can be for all of them, a constant.
bool is_left(uint i) {
  return (i + 1u) * LANES <= kLeftParts || (i * LANES < kLeftParts && part(i) < kLeftParts);
}

bool is_part(uint i) {
  return (i + 1u) * LANES <= kParts || part(i) < kParts;
}

// Rows of q come first, a row's chunks beside each other; of w the columns are.
uint left_row(uint i) {
  return part(i) / CHUNKS;
}

uint left_chunk(uint i) {
  return part(i) % CHUNKS;
}

uint right_column(uint i) {
  return (part(i) - kLeftParts) % TILE_N;
}

uint right_chunk(uint i) {
  return (part(i) - kLeftParts) / TILE_N;
}

uint column(uint n) {
  return min(gl_WorkGroupID.x * TILE_N + n, outputs - 1u);
}

void find_parts(uint first_row) {
  [[unroll]] for (uint i = 0; i < kOwn; ++i) {
    less[i] = f16vec2(1152.0);
    if (is_left(i)) {
      uint row = min(first_row + left_row(i), rows - 1u);
      place[i] = row * (packed_length / 16u) + left_chunk(i) * 2u;
      less[i] = f16vec2(float16_t(1152 + clamp(load_zero_point(row), -kWidest, kWidest)));
    } else if (is_part(i)) {
      place[i] = right_chunk(i) * (WEIGHT_UNITS / 2u) * outputs + column(right_column(i));
    }
  }
}

void fetch(uint iteration) {
  [[unroll]] for (uint i = 0; i < kOwn; ++i) {
    if (is_left(i)) {
      words[2 * i] = q[place[i] + iteration * (2 * CHUNKS)];
      words[2 * i + 1] = q[place[i] + iteration * (2 * CHUNKS) + 1u];
    } else if (is_part(i)) {
      uint first = place[i] + iteration * (CHUNKS * WEIGHT_UNITS / 2u) * outputs;
      words[2 * i] = w[first];
#ifndef W_I4
      words[2 * i + 1] = w[first + outputs];
#endif
      uint step_index = (iteration * CHUNKS + right_chunk(i)) * 32u / STEP;
      next_scale[i] = scale_word(step_index * outputs + column(right_column(i)));
    }
  }
}

// 1024 + 128 + byte as halves, of the bytes 0 and 2, less the offset.
uint halves(uint word, f16vec2 offset) {
  return packFloat2x16(unpackFloat2x16((word & kBytes) ^ (0x64806480u + zero)) - offset);
}

uvec4 halves_of(uint first, uint second, f16vec2 offset) {
  return uvec4(halves(first, offset), halves(first >> 8, offset), halves(second, offset), halves(second >> 8, offset));
}

void put_bytes(uint at, uvec4 first, uvec4 second, f16vec2 offset) {
  tile[at] = halves_of(first.x, first.z, offset);
  tile[at + 1u] = halves_of(second.x, second.z, offset);
  tile[at + 2u] = halves_of(first.y, first.w, offset);
  tile[at + 3u] = halves_of(second.y, second.w, offset);
}

// Two nibbles in the low bits of the half 1024, each plus 8.
uvec2 nibbles(uint word) {
  return (uvec2(word, word >> 8) & kBytes) ^ (0x64886488u + zero);
}

void put() {
  [[unroll]] for (uint i = 0; i < kOwn; ++i) {
    if (is_left(i)) {
      put_bytes(left_row(i) * LEFT_STRIDE + left_chunk(i) * 4u, words[2 * i], words[2 * i + 1], less[i]);
    } else if (is_part(i)) {
      uint at = RIGHT_START + right_column(i) * RIGHT_STRIDE + right_chunk(i) * WEIGHT_UNITS;
#ifdef W_I4
      uvec4 packed = words[2 * i];
      tile[at] = uvec4(nibbles(packed.x), nibbles(packed.y));
      tile[at + 1u] = uvec4(nibbles(packed.z), nibbles(packed.w));
#else
      put_bytes(at, words[2 * i], words[2 * i + 1], less[i]);
#endif
      uint n = right_chunk(i) * TILE_N + right_column(i);
      tile_scale[n / 4u][n % 4u] = scale_of(next_scale[i]);
    }
  }
}

// One chunk of those in shared memory.
void multiply(uint index, uint down, uint across) {
  uint left_base = down * LEFT_STRIDE + index * 4u;
  uint right_base = RIGHT_START + across * RIGHT_STRIDE + index * WEIGHT_UNITS;
  RIGHT_MATRIX right[2 * kAcross];
  SUM_MATRIX step_scale[kAcross];
  [[unroll]] for (uint j = 0; j < kAcross; ++j) {
#ifdef W_I4
    LOAD_RIGHT_NIBBLES(right[2 * j], right[2 * j + 1], right_base + j * (16 * RIGHT_STRIDE), RIGHT_STRIDE);
#else
    LOAD_RIGHT(right[2 * j], right_base + j * (16 * RIGHT_STRIDE), RIGHT_STRIDE);
    LOAD_RIGHT(right[2 * j + 1], right_base + j * (16 * RIGHT_STRIDE) + 2, RIGHT_STRIDE);
#endif
    LOAD_ROWS(step_scale[j], tile_scale, (index * TILE_N + across + j * 16) / 4);
  }
  [[unroll]] for (uint i = 0; i < kDown; ++i) {
    LEFT_MATRIX left[2];
    LOAD_LEFT(left[0], left_base + i * (16 * LEFT_STRIDE), LEFT_STRIDE);
    LOAD_LEFT(left[1], left_base + i * (16 * LEFT_STRIDE) + 2, LEFT_STRIDE);
    [[unroll]] for (uint j = 0; j < kAcross; ++j) {
      SUM_MATRIX chunk = MULTIPLY_ADD(left[0], right[2 * j], ZERO_SUM);
      chunk = MULTIPLY_ADD(left[1], right[2 * j + 1], chunk);
      ADD_PRODUCT(sums[i * kAcross + j], chunk, step_scale[j]);
    }
  }
}

#ifdef W_SUM_NONE
float beyond(uint row, uint n, int zero_point) {
  return 0.0;  // it is int8
}
#else
// What the zero point beyond an int8 code adds to the sum over steps: A was made with it clamped.
float beyond(uint row, uint n, int zero_point) {
  int rest = zero_point - clamp(zero_point, -kWidest, kWidest);
  float sum = 0.0;
  if (rest == 0) return sum;
  for (uint s = 0; s < packed_length / STEP; ++s) {
    sum += W_SCALE_AT(s * outputs + n) * float(rest * w_sum[s * outputs + n]);
  }
  return sum;
}
#endif

void store(uint row, uint n, float sum) {
  float token_scale = load_scale(row);
  precise float value = token_scale * (sum - beyond(row, n, load_zero_point(row)));
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

// Band i of every subgroup's matrices, 16 rows, out of shared memory.
void write_band(uint first_row, uint i) {
  for (uint at = gl_LocalInvocationIndex; at < 16 * GRID_M * TILE_N; at += LANES) {
    uint band_row = at / TILE_N;
    uint row = first_row + band_row / 16 * (kDown * 16) + i * 16 + band_row % 16;
    uint n = gl_WorkGroupID.x * TILE_N + at % TILE_N;
    float sum = uintBitsToFloat(tile[band_row * SUM_STRIDE + at % TILE_N / 4][at % 4]);
    if (row < rows && n < outputs) store(row, n, sum);
  }
}

// Slice by slice is added up in shared memory. A macro, as drivers are slow with arrays of matrices at any index that is
// not a literal, and no loop around another one with a run-time end is unrolled.
#define BAND(i)                                                              \
  if (i < kDown) {                                                           \
    [[unroll]] for (uint s = 0; s < SLICES; ++s) {                           \
      if (slice == s) {                                                      \
        [[unroll]] for (uint j = 0; j < kAcross; ++j) {                      \
          uint at = down / kDown * SUM_STRIDE + (across + j * 16) / 4;       \
          if (s > 0u) {                                                      \
            SUM_MATRIX before;                                               \
            LOAD_SUM(before, at, SUM_STRIDE);                                \
            ADD(sums[i * kAcross + j], before);                              \
          }                                                                  \
          STORE_SUM(sums[i * kAcross + j], at, SUM_STRIDE);                  \
        }                                                                    \
      }                                                                      \
      barrier();                                                             \
    }                                                                        \
    write_band(first_row, i);                                                \
    barrier();                                                               \
  }

void main() {
  uint first_row = (gl_WorkGroupID.y + gl_WorkGroupID.z * gl_NumWorkGroups.y) * TILE_M;
  uint slice = MATRIX_SUBGROUP / (GRID_M * GRID_N);
  uint down = MATRIX_SUBGROUP / GRID_N % GRID_M * (kDown * 16);
  uint across = MATRIX_SUBGROUP % GRID_N * (kAcross * 16);
  zero = rows >> 31;
  find_parts(first_row);
  [[unroll]] for (uint i = 0; i < kDown * kAcross; ++i) sums[i] = ZERO_SUM;

  uint last = packed_length / (32u * CHUNKS) - 1u;
  fetch(0u);
  // The next iteration's loads are on their way while one is multiplied.
  [[dont_unroll]] for (uint iteration = 0; iteration <= last; ++iteration) {
    put();
    barrier();
    fetch(min(iteration + 1u, last));
    [[unroll]] for (uint i = 0; i < DEPTH; ++i) multiply(slice * DEPTH + i, down, across);
    barrier();
  }
  BAND(0)
  BAND(1)
  BAND(2)
  BAND(3)
}

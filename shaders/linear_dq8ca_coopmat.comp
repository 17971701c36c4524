#version 450
// linear_dq8ca.comp's function of many rows on cooperative matrices: A = q - zp and the weights are integers that f16 holds
// exactly, their products and the sums over a chunk of 32 positions are exact in f32 (below 2^24), and only the sum of
// w_scale[s, n] * chunk is rounded. A workgroup owns TILE_M x TILE_N outputs. Its subgroups of 32 are SLICES times a grid of
// GRID_M x GRID_N. An iteration puts SLICES * DEPTH chunks into shared memory, slice i multiplies DEPTH of them from
// i * DEPTH on, and at the end the slices are added up in order.
// Operands lie in shared memory with 32 positions of a chunk in the order that unpacking gives: words of 4 as 0 2 1 3.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

#define LANES (32 * SLICES * GRID_M * GRID_N)
#define CHUNKS (SLICES * DEPTH)
#define TILE_STRIDE (4 * CHUNKS + 1)  // odd: rows of 16 bytes fall into different banks
#define TILE_SIZE ((TILE_M + TILE_N) * TILE_STRIDE)
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
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

shared uvec4 tile[STORAGE];
shared float tile_scale[CHUNKS * TILE_N];

#include "coopmat.glsl"
#include "qparams.glsl"

const uint kUnits = 2 * CHUNKS;  // of 16 positions, in a row of an iteration
const uint kLeftUnits = TILE_M * kUnits;
const uint kAllUnits = (TILE_M + TILE_N) * kUnits;
const uint kOwn = (kAllUnits + LANES - 1) / LANES;
const uint kScales = CHUNKS * TILE_N;
const uint kOwnScales = (kScales + LANES - 1) / LANES;
const uint kDown = TILE_M / (16 * GRID_M);  // matrices of a subgroup
const uint kAcross = TILE_N / (16 * GRID_N);
#ifdef W_I4
const uint kWeightUnits = 2;  // in an element of w
#else
const uint kWeightUnits = 1;
#endif
const int kWidest = 128;  // zero points of int8 codes lie within

uvec4 words[kOwn];  // this invocation's units of the next iteration, on their way
float next_scale[kOwnScales];
uint place[kOwn];    // of a unit in q, or in w
f16vec2 less[kOwn];  // what unpacking its bytes takes away
SUM_MATRIX sums[kDown * kAcross];

uint unit(uint i) {
  return i * LANES + gl_LocalInvocationIndex;
}

// Rows of q come first, then columns of w. Eight lanes take eight rows, so that their stores fall into different banks.
uint unit_row(uint i) {
  return (unit(i) & 7u) + 8u * (unit(i) / (8u * kUnits));
}

uint unit_part(uint i) {
  return (unit(i) >> 3) % kUnits;
}

// The same for a whole subgroup, and where it can be for all of them, a constant.
bool is_left(uint i) {
  return (i + 1u) * LANES <= kLeftUnits || (i * LANES < kLeftUnits && unit(i) < kLeftUnits);
}

bool is_unit(uint i) {
  return (i + 1u) * LANES <= kAllUnits || unit(i) < kAllUnits;
}

bool is_scale(uint i) {
  return (i + 1u) * LANES <= kScales || unit(i) < kScales;
}

uint column(uint n) {
  return min(gl_WorkGroupID.x * TILE_N + n, outputs - 1u);
}

void find_units(uint first_row) {
  [[unroll]] for (uint i = 0; i < kOwn; ++i) {
    if (is_left(i)) {
      uint row = min(first_row + unit_row(i), rows - 1u);
      place[i] = row * (packed_length / 16u) + unit_part(i);
      less[i] = f16vec2(float16_t(1152 + clamp(load_zero_point(row), -kWidest, kWidest)));
    } else if (is_unit(i)) {
      place[i] = unit_part(i) / kWeightUnits * outputs + column(unit_row(i) - TILE_M);
      less[i] = f16vec2(1152.0);
    }
  }
}

void fetch(uint iteration) {
  [[unroll]] for (uint i = 0; i < kOwn; ++i) {
    if (is_left(i)) {
      words[i] = q[place[i] + iteration * kUnits];
    } else if (is_unit(i)) {
      words[i] = w[place[i] + iteration * (kUnits / kWeightUnits) * outputs];
    }
  }
  [[unroll]] for (uint i = 0; i < kOwnScales; ++i) {
    if (is_scale(i)) {
      uint step_index = (iteration * CHUNKS + unit(i) / TILE_N) * 32u / STEP;
      next_scale[i] = W_SCALE_AT(step_index * outputs + column(unit(i) % TILE_N));
    }
  }
}

// Two halves, from the bytes 0 and 2 of a word: 1024 + 128 + byte, or 1024 + 8 + nibble, less the offset.
uint halves(uint word, uint mask, uint magic, f16vec2 offset) {
  return packFloat2x16(unpackFloat2x16((word & mask) ^ magic) - offset);
}

uvec2 bytes_to_halves(uint word, f16vec2 offset) {
  return uvec2(halves(word, 0x00ff00ffu, 0x64806480u, offset), halves(word >> 8, 0x00ff00ffu, 0x64806480u, offset));
}

// 1024 + 16 * (nibble + 8), over 16, less 72.
uint upper_nibbles(uint word) {
  f16vec2 value = unpackFloat2x16((word & 0x00f000f0u) ^ 0x64806480u);
  return packFloat2x16(value * f16vec2(0.0625) - f16vec2(72.0));
}

uvec4 nibbles_to_halves(uint word) {
  const f16vec2 offset = f16vec2(1032.0);
  return uvec4(halves(word, 0x000f000fu, 0x64086408u, offset), halves(word >> 8, 0x000f000fu, 0x64086408u, offset),
               upper_nibbles(word), upper_nibbles(word >> 8));
}

void put_bytes(uint at, uvec4 bytes, f16vec2 offset) {
  tile[at] = uvec4(bytes_to_halves(bytes.x, offset), bytes_to_halves(bytes.y, offset));
  tile[at + 1u] = uvec4(bytes_to_halves(bytes.z, offset), bytes_to_halves(bytes.w, offset));
}

void put() {
  [[unroll]] for (uint i = 0; i < kOwn; ++i) {
    uint at = unit_row(i) * TILE_STRIDE + unit_part(i) * 2u;
    uvec4 packed = words[i];
    if (is_left(i)) {
      put_bytes(at, packed, less[i]);
    } else if (is_unit(i)) {
#ifdef W_I4
      bool upper = (unit_part(i) & 1u) != 0u;
      tile[at] = nibbles_to_halves(upper ? packed.z : packed.x);
      tile[at + 1u] = nibbles_to_halves(upper ? packed.w : packed.y);
#else
      put_bytes(at, packed, less[i]);
#endif
    }
  }
  [[unroll]] for (uint i = 0; i < kOwnScales; ++i) {
    if (is_scale(i)) tile_scale[unit(i)] = next_scale[i];
  }
}

// One chunk of those in shared memory.
void multiply(uint index, uint down, uint across) {
  uint left_base = down * TILE_STRIDE + index * 4u;
  uint right_base = (TILE_M + across) * TILE_STRIDE + index * 4u;
  RIGHT_MATRIX right[2 * kAcross];
  SUM_MATRIX step_scale[kAcross];
  [[unroll]] for (uint j = 0; j < kAcross; ++j) {
    LOAD_RIGHT(right[2 * j], right_base + j * (16 * TILE_STRIDE), TILE_STRIDE);
    LOAD_RIGHT(right[2 * j + 1], right_base + j * (16 * TILE_STRIDE) + 2, TILE_STRIDE);
    LOAD_ROWS(step_scale[j], tile_scale, index * TILE_N + across + j * 16);
  }
  [[unroll]] for (uint i = 0; i < kDown; ++i) {
    LEFT_MATRIX left[2];
    LOAD_LEFT(left[0], left_base + i * (16 * TILE_STRIDE), TILE_STRIDE);
    LOAD_LEFT(left[1], left_base + i * (16 * TILE_STRIDE) + 2, TILE_STRIDE);
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
  find_units(first_row);
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

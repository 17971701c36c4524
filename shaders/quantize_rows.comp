#version 450
// choose_qparams_per_row and quantize_and_pack in one pass, after what stands before them (PROLOGUE): nothing, an RMS norm
// (lib/row_values.glsl), or a gated activation, f(x) * up with f chosen by OP (3). The integers are those of the two kernels.
// A workgroup owns a row: it reads x for the norm's factor, for the smallest and largest value, and for the codes.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUPS
layout(constant_id = 7) const uint SUBGROUP = 32;
#endif
#include "exact.glsl"
#include "double_float.glsl"
#include "math.glsl"
#include "reduce.glsl"
#include "rms.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const uint PROLOGUE = 0;
layout(constant_id = 1) const uint OP = 0;
layout(constant_id = 2) const int ROUNDING = 0;
layout(constant_id = 3) const uint GROUP_SIZE = 32;
layout(constant_id = 4) const uint GROUP_PADDED = 32;
layout(constant_id = 5) const uint ROW_LENGTH = 64;  // known lengths let the driver unroll, and load ahead
layout(constant_id = 6) const uint PACKED_LENGTH = 64;
#if defined(GROUP_SUMS_NONE) && LANES > 8
#define KEPT_ROW  // in registers; no group is added up
#else
layout(constant_id = 7) const uint STEP = 32;
#endif

layout(push_constant) uniform Push {
  uint rows;
  int x_offset;
  int x_inner_rows;
  int x_outer_stride;
  int x_inner_stride;
  uint up_offset;
  uint up_row_stride;
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
layout(std430, binding = UP_BINDING) readonly buffer Up { UP_TYPE up[]; };
#ifdef SCALE_IMAGE
layout(binding = SCALE_BINDING, SCALE_FORMAT) uniform writeonly SCALE_IMAGE_TYPE scale;
#else
layout(std430, binding = SCALE_BINDING) writeonly buffer Scale { SCALE_TYPE scale[]; };
#endif
#ifdef ZP_IMAGE
layout(binding = ZP_BINDING, ZP_FORMAT) uniform writeonly ZP_IMAGE_TYPE zp;
#else
layout(std430, binding = ZP_BINDING) ZP_ACCESS buffer Zp { ZP_TYPE zp[]; };
#endif
layout(std430, binding = Q_BINDING) writeonly buffer Q { Q_TYPE q[]; };
#ifndef GROUP_SUMS_NONE
layout(std430, binding = GROUP_SUMS_BINDING) writeonly buffer GroupSums { GROUP_SUMS_TYPE group_sums[]; };
#endif

#define QPARAMS_WRITE
#include "quads.glsl"
#include "activations.glsl"
#include "choose_qparams.glsl"
#include "qparams.glsl"
#include "quantize.glsl"
#include "row_qparams.glsl"
#include "row_values.glsl"
#include "rows.glsl"

#ifdef KEPT_ROW
#include "kept_row.glsl"

uint first_word;  // of the row, in q

void store_word(uint at, uint word) {
  q[first_word + at] = word;
}

void quantize(uint row, uint start, out float scale_value, out int zero_point) {
  first_word = row * (PACKED_LENGTH / 4u);
  load_row(start);
  quantize_row(start, scale_value, zero_point);
}
#else
// Blocks of neighbours for each lane, so that it has whole steps to add up.
void quantize(uint row, uint start, out float scale_value, out int zero_point) {
  uint lane = gl_LocalInvocationIndex;
  float factor = row_factor(start);
  Extremes extremes = no_extremes();
  for (uint k = lane; k < row_length; k += LANES) include_value(row_value_bits(start, k, factor), extremes);
  float inverse;
  choose_for_row(extremes, scale_value, zero_point, inverse);
#ifdef GROUP_SUMS_NONE
  const uint block = clamp(STEP, 16u, 32u);
#else
  const uint block = max(32u, STEP);
#endif
  for (uint first = lane * block; first < PACKED_LENGTH; first += LANES * block) {
    int sum = 0;
    for (uint p = first; p < min(first + block, PACKED_LENGTH); p += 4u) {
      uint word = 0u;
      [[unroll]] for (uint i = 0; i < 4u; ++i) {
        uint k = source_index(p + i);
        int value = 0;
        if (k < row_length) value = quantized(row_value_bits(start, k, factor), scale_value, inverse, zero_point);
        word |= (uint(value) & 0xffu) << (8u * i);
#ifndef GROUP_SUMS_NONE
        sum += value;
        uint done = p + i + 1u;
        if (done % STEP == 0u) {
          uint steps = row_length / GROUP_SIZE * GROUP_PADDED / STEP;
          if (done / STEP <= steps) group_sums[row * steps + done / STEP - 1u] = sum;
          sum = 0;
        }
#endif
      }
      q[(row * PACKED_LENGTH + p) / 4u] = word;
    }
  }
}
#endif

void main() {
  uint row = group_index();
  if (row >= rows) return;
  up_start = up_offset + row * up_row_stride;
  float scale_value;
  int zero_point;
  quantize(row, row_start(row), scale_value, zero_point);
  if (gl_LocalInvocationIndex == 0u) {
    store_scale(row, scale_value);
    store_zero_point(row, zero_point);
  }
}

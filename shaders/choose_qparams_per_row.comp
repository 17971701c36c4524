#version 450
// scale and zero point of each row x[row, :] (section 6 of the design gives the formulas), bit-equal to torch's.
//   mapping 0  torchao ASYMMETRIC: scale = max((hi - lo) / (qmax - qmin), eps), zp = clamp(qmin - rne(lo / scale))
//   mapping 1  torchao SYMMETRIC:  scale = max(max(-lo, hi) / ((qmax - qmin) / 2), eps), zp = trunc((qmax + qmin + 1) / 2)
//   mapping 2  quantized_decomposed.choose_qparams_per_token_asymmetric: zp by the smaller of the two end errors
//   mapping 3  quantized_decomposed.choose_qparams_per_token: scale = max(max|x|, eps) / qmax, zp = 0
// with lo = min(min(x), 0) and hi = max(max(x), 0). One workgroup owns one row; it reads x once.
// A row that holds a NaN gets a NaN scale and zero point 0. Source: torchao 0.18 quant_primitives.py, torch 2.13 _decomposed.py.
#extension GL_GOOGLE_include_directive : require
#include "exact.glsl"

layout(local_size_x = LANES) in;

layout(push_constant) uniform Push {
  uint rows;
  uint row_length;
  int mapping;
  int qmin;
  int qmax;
  float eps;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
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

#define QPARAMS_WRITE
#include "activation.glsl"
#include "choose_qparams.glsl"
#include "qparams.glsl"
#include "row_qparams.glsl"

void main() {
  uint row = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
  uint lane = gl_LocalInvocationIndex;
  Extremes extremes = no_extremes();
  if (row < rows) {
    for (uint k = lane; k < row_length; k += LANES) include_value(load_x_bits(row * row_length + k), extremes);
  }
  float scale_value;
  int zero_point;
  float inverse;
  choose_for_row(extremes, scale_value, zero_point, inverse);
  if (lane != 0u || row >= rows) return;
  store_scale(row, scale_value);
  store_zero_point(row, zero_point);
}

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
layout(std430, binding = ZP_BINDING) writeonly buffer Zp { ZP_TYPE zp[]; };
#endif

#define QPARAMS_WRITE
#include "activation.glsl"
#include "qparams.glsl"

shared int lo_keys[LANES];
shared int hi_keys[LANES];

// Scale of a row, never below eps. Compared as bits: eps may be the smallest normal number.
float clamp_scale(float scale_value) {
  uint bits = floatBitsToUint(scale_value);
  return bits < floatBitsToUint(eps) ? eps : scale_value;
}

int two_sided_zero_point(float lo, float hi, float scale_value) {
  precise float low = exact_div(lo, scale_value);
  precise float high = exact_div(hi, scale_value);
  precise float low_error = float(qmin) + low;
  precise float high_error = float(qmax) + high;
  precise float error = low_error + high_error;
  precise float from_low = float(qmin) - low;
  precise float from_high = float(qmax) - high;
  float zero_point = error > 0.0 ? from_low : from_high;
  return int(roundEven(clamp(zero_point, float(qmin), float(qmax))));
}

void write_row(uint row, float lo, float hi) {
  precise float range = hi - lo;
  float largest = max(-lo, hi);
  float scale_value;
  int zero_point = 0;
  if (mapping == 1) {
    scale_value = clamp_scale(exact_div(largest, 0.5 * float(qmax - qmin)));
    zero_point = (qmax + qmin + 1) / 2;
  } else if (mapping == 3) {
    scale_value = exact_div(clamp_scale(largest), float(qmax));
  } else {
    scale_value = clamp_scale(exact_div(range, float(qmax - qmin)));
    if (mapping == 2) {
      zero_point = two_sided_zero_point(lo, hi, scale_value);
    } else {
      zero_point = int(clamp(float(qmin) - roundEven(exact_div(lo, scale_value)), float(qmin), float(qmax)));
    }
  }
  store_scale(row, scale_value);
  store_zero_point(row, zero_point);
}

void main() {
  uint row = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
  uint lane = gl_LocalInvocationIndex;
  int lo = 0;
  int hi = 0;
  if (row < rows) {
    for (uint k = lane; k < row_length; k += LANES) {
      int key = float_key(load_x_bits(row * row_length + k));
      lo = min(lo, key);
      hi = max(hi, key);
    }
  }
  lo_keys[lane] = lo;
  hi_keys[lane] = hi;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    if (lane < width) {
      lo_keys[lane] = min(lo_keys[lane], lo_keys[lane + width]);
      hi_keys[lane] = max(hi_keys[lane], hi_keys[lane + width]);
    }
    barrier();
  }
  if (lane != 0u || row >= rows) return;
  if (lo_keys[0] < kKeyNegInf || hi_keys[0] > kKeyInf) {
    store_scale(row, uintBitsToFloat(kNanBits));
    store_zero_point(row, 0);
    return;
  }
  write_row(row, key_float(lo_keys[0]), key_float(hi_keys[0]));
}

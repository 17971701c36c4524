#version 450
// y[i] = f(x[i]) with f chosen by OP; alpha and beta are f's scalars. f32 arithmetic; NaN passes through as in torch.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "exact.glsl"
#include "double_float.glsl"
#include "math.glsl"
#include "power.glsl"
#include "trigonometry.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const uint OP = 0;

layout(push_constant) uniform Push {
  uint n_elements;
  float alpha;
  float beta;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

// sqrt and 1 / sqrt; a subnormal v is scaled up first, where a driver could flush it, and its sign is read from its bits.
float square_root(float v) {
  uint bits = floatBitsToUint(v);
  if (bits > 0x80000000u) return kNan;
  if (bits >= 0x00800000u || bits == 0u) return sqrt(v);
  return sqrt(float(bits)) * 3.7433921e-23;  // 2^-74.5
}

float inverse_square_root(float v) {
  uint bits = floatBitsToUint(v);
  if ((bits << 1) == 0u) return bits == 0u ? kInf : -kInf;
  if ((bits >> 31) != 0u) return kNan;
  if (bits >= 0x00800000u) return inversesqrt(v);
  return inversesqrt(float(bits)) * 2.6713734e22;  // 2^74.5
}

// floor and ceil; a subnormal v, which a driver could flush, goes by its bits.
bool is_subnormal(float v) {
  uint magnitude = floatBitsToUint(v) & 0x7fffffffu;
  return magnitude != 0u && magnitude < 0x00800000u;
}

float floor_exact(float v) {
  if (!is_subnormal(v)) return floor(v);
  return (floatBitsToUint(v) >> 31) != 0u ? -1.0 : 0.0;
}

float ceil_exact(float v) {
  if (!is_subnormal(v)) return ceil(v);
  return (floatBitsToUint(v) >> 31) != 0u ? -0.0 : 1.0;
}

float apply(float v) {
  switch (OP) {
    case OP_NEG: return -v;
    case OP_ABS: return abs(v);
    case OP_RELU: return clamp_low(v, 0.0);
    case OP_SIGMOID: return sigmoid(v);
    case OP_TANH: return tanh_accurate(v);
    case OP_SILU: return silu(v);
    case OP_GELU: return gelu(v);
    case OP_GELU_TANH: return gelu_tanh(v);
    case OP_EXP: return exp_accurate(v);
    case OP_LOG: return log_accurate(v);
    case OP_SQRT: return square_root(v);
    case OP_RSQRT: return inverse_square_root(v);
    case OP_SIN: return sine(v, 0u);
    case OP_COS: return sine(v, 1u);
    case OP_ERF: return erf_accurate(v);
    case OP_FLOOR: return floor_exact(v);
    case OP_CEIL: return ceil_exact(v);
    case OP_ROUND: return roundEven(v);
    case OP_TRUNC: return trunc(v);
    case OP_CLAMP: return clamp_high(clamp_low(v, alpha), beta);
    case OP_CLAMP_MIN: return clamp_low(v, alpha);
    case OP_CLAMP_MAX: return clamp_high(v, alpha);
    case OP_ADD_SCALAR: return v + alpha;
    case OP_MUL_SCALAR: return v * alpha;
    case OP_DIV_SCALAR: return v / alpha;
    case OP_RSUB_SCALAR: return alpha - v;
    case OP_RDIV_SCALAR: return alpha / v;
    case OP_POW_SCALAR: return power(v, alpha);
    case OP_RPOW_SCALAR: return power(alpha, v);
    case OP_SQUARE: return v * v;
    case OP_EXPM1: return expm1_accurate(v);
    case OP_LOG1P: return log1p_accurate(v);
    case OP_LEAKY_RELU: return v < 0.0 ? alpha * v : v;
  }
  return v;
}

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  y[i] = Y_TYPE(apply(float(x[i])));
}

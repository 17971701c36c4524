// Codes of values, equal to torch's, and where they lie in a packed row. Needs exact.glsl, the push constants qmin, qmax and
// row_length, and the specialization constants ROUNDING, GROUP_SIZE and GROUP_PADDED. ROUNDING:
// 0: rne(x * (1 / scale)) + zp           torchao quantize_affine
// 1: rne(x / scale + zp), ties exact      quantized_decomposed.quantize_per_token with f64 scales
// 2: rne(x * (1 / scale) + zp) in f32     quantized_decomposed.quantize_per_token with f32 scales

// x * inverse; a subnormal x is scaled up first, so that a driver that flushes it changes nothing.
float scaled(uint bits, float inverse) {
  precise float product;
  if ((bits & 0x7f800000u) != 0u) {
    product = uintBitsToFloat(bits) * inverse;
    return product;
  }
  float mantissa = float(bits & 0x7fffffu);
  precise float unit = (inverse * 7.8886090522101181e-31) * 1.7763568394002505e-15;  // 2^-100 * 2^-49
  product = mantissa * unit;
  return (bits >> 31) != 0u ? -product : product;
}

// rne(x / scale + zero_point) as if in infinite precision: n = x / scale rounded to the nearest integer, corrected by
// the exact remainder (|n| < 2^9 and scale is split in 12-bit halves, so every product and difference is exact).
int round_exact(float value, float scale_value, float inverse, int zero_point) {
  float limit = float(qmax - qmin) + 2.0;
  precise float approximate = clamp(value * inverse, -limit, limit);
  float n = roundEven(approximate);
  if (abs(n) >= limit) return n > 0.0 ? qmax : qmin;
  float high = uintBitsToFloat(floatBitsToUint(scale_value) & 0xfffff000u);
  precise float low = scale_value - high;
  precise float rest = value - n * high;
  rest = rest - n * low;
  float half_scale = 0.5 * scale_value;
  if (rest > half_scale) n += 1.0;
  if (rest < -half_scale) n -= 1.0;
  int result = int(n) + zero_point;
  if (abs(rest) == half_scale && (result & 1) != 0) result += rest > 0.0 ? 1 : -1;
  return result;
}

int quantized(uint bits, float scale_value, float inverse, int zero_point) {
  float lowest = float(qmin);
  float highest = float(qmax);
  if (!is_finite_bits(bits) || !is_finite_bits(floatBitsToUint(scale_value))) return qmin;
  if (ROUNDING == 1) return clamp(round_exact(uintBitsToFloat(bits), scale_value, inverse, zero_point), qmin, qmax);
  precise float value = scaled(bits, inverse);
  if (ROUNDING == 0) value = roundEven(value);
  value = value + float(zero_point);
  if (ROUNDING == 2) value = roundEven(value);
  return int(clamp(value, lowest, highest));
}

// Whether quantized_easily gives a row's codes: its values are finite, and subnormal ones are as good as 0 beside its scale.
bool is_easy_scale(float scale_value) {
  return ROUNDING != 1 && scale_value > 1e-36 && is_finite_bits(floatBitsToUint(scale_value));
}

// A float of this size has no fraction: the sum with it is rounded to an integer, ties to even.
const float kRounds = 12582912.0;  // 1.5 * 2^23
const int kRoundsBits = 0x4b400000;

// Of a value between its row's extremes, which are at most 2^16 codes apart.
int quantized_easily(uint bits, float inverse, int zero_point) {
  precise float value = uintBitsToFloat(bits) * inverse;
  if (ROUNDING == 2) value = value + float(zero_point);
  value = value + kRounds;
  int code = floatBitsToInt(value) - kRoundsBits;
  return clamp(ROUNDING == 2 ? code : code + zero_point, qmin, qmax);
}

// Index of x for packed position p, or row_length where the padding has none.
uint source_index(uint p) {
  if (GROUP_SIZE == GROUP_PADDED) return min(p, row_length);
  uint within = p % GROUP_PADDED;
  uint k = p / GROUP_PADDED * GROUP_SIZE + within;
  return within < GROUP_SIZE ? min(k, row_length) : row_length;
}

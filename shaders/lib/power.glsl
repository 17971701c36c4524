// x^y with log2(x) in two floats, so that the error does not grow with the exponent. Needs exact.glsl,
// double_float.glsl and math.glsl.

// log2 of m * 2^exponent, m in [sqrt(1/2), sqrt(2)]: high + low, relative error about 2^-30.
void log2_sum(float m, int exponent, out float high, out float low) {
  // s = (m - 1) / (m + 1); log(m) = 2 s + s^3 p(s^2)
  precise float numerator = m - 1.0;
  precise float denominator = m + 1.0;
  float denominator_low = sum_error(1.0, m, denominator);
  if (m > 1.0) denominator_low = sum_error(m, 1.0, denominator);
  precise float s = numerator / denominator;
  precise float product = s * denominator;
  precise float rest = numerator - product;
  rest = rest - product_error(s, denominator, product);
  rest = rest - s * denominator_low;
  float s_low = rest / denominator;
  float z = s * s;
  float p = (0.29874599 * z + 0.39977443) * z + 0.66666776;
  precise float tail = 2.0 * s_low + s * z * p;
  precise float head = 2.0 * s;
  precise float log_high = head + tail;
  float log_low = sum_error(head, tail, log_high);
  precise float scaled = log_high * 1.4426950216293335;
  precise float scaled_low = product_error(log_high, 1.4426950216293335, scaled);
  scaled_low = scaled_low + log_high * 1.925963e-8;
  scaled_low = scaled_low + log_low * 1.442695;
  float n = float(exponent);
  precise float sum = n + scaled;
  precise float error = sum_error(n, scaled, sum) + scaled_low;
  high = sum;
  low = error;
}

// On the bits where |y| < 1: a driver may take a subnormal for 0.
bool is_integer(float y) {
  uint size = floatBitsToUint(y) & 0x7fffffffu;
  return size < 0x3f800000u ? size == 0u : size < 0x7f800000u && trunc(y) == y;
}

bool is_odd(float y) {
  return abs(y) < 16777216.0 && is_integer(y) && (int(y) & 1) != 0;
}

// |x|^y for finite x, not 0 and not 1, and finite y, not 0.
float power_positive(float x, float y) {
  int exponent;
  float m = float(split_float(floatBitsToUint(x) & 0x7fffffffu, exponent)) * 1.1920928955078125e-7;
  exponent += 23;
  if (m > 1.4142135) {
    m *= 0.5;
    exponent += 1;
  }
  float high, low;
  log2_sum(m, exponent, high, low);
  float bounded = clamp(y, -1.0e12, 1.0e12);  // beyond, every power is 0 or infinite: |log2| >= 2^-24
  precise float p = high * bounded;
  if (p > 129.0) return kInf;
  if (p < -151.0) return 0.0;
  precise float p_low = product_error(high, bounded, p);
  p_low = p_low + low * bounded;
  float n = roundEven(p);
  precise float r = p - n;
  r = r + p_low;
  int whole = int(n);
  int first = whole / 2;
  return exp_near_zero(r * 0.69314718) * power_of_two(first) * power_of_two(whole - first);
}

float power(float x, float y) {
  uint magnitude = floatBitsToUint(x) & 0x7fffffffu;
  if ((floatBitsToUint(y) << 1) == 0u || x == 1.0) return 1.0;
  if (is_nan(x) || is_nan(y)) return kNan;
  bool negative = (floatBitsToUint(x) >> 31) != 0u;
  bool grows = (floatBitsToUint(y) >> 31) == 0u;  // y > 0, of subnormals too
  if (abs(y) == kInf) {
    if (magnitude == 0x3f800000u) return 1.0;
    return (magnitude > 0x3f800000u) == grows ? kInf : 0.0;
  }
  float result;
  if (magnitude == 0u || magnitude == 0x7f800000u) {
    result = (magnitude == 0u) == grows ? 0.0 : kInf;
  } else {
    if (negative && !is_integer(y)) return kNan;
    result = magnitude == 0x3f800000u ? 1.0 : power_positive(x, y);
  }
  return negative && is_odd(y) ? -result : result;
}

// exp, log, tanh, erf and what is made of them, to a few units in the last place on every driver: Vulkan allows
// 3 + 2 |x| units in exp, an absolute error near 1 in log, and promises little of tanh and nothing of erf.
// Polynomials: least maximum error, fitted in 40 digits. Needs exact.glsl and double_float.glsl.

#define kInf uintBitsToFloat(0x7f800000u)
#define kNan uintBitsToFloat(kNanBits)

bool is_nan(float x) {
  return (floatBitsToUint(x) & 0x7fffffffu) > 0x7f800000u;
}

// 2^n, n in [-126, 127].
float power_of_two(int n) {
  return uintBitsToFloat(uint(n + 127) << 23);
}

// e^r - 1 for |r| <= 0.35.
float expm1_near_zero(float r) {
  float p = 1.9919360e-4;
  p = p * r + 1.3947212e-3;
  p = p * r + 8.3332630e-3;
  p = p * r + 4.1666254e-2;
  p = p * r + 1.6666667e-1;
  p = p * r + 0.5;
  return r + r * r * p;
}

float exp_near_zero(float r) {
  return 1.0 + expm1_near_zero(r);
}

// e^(x + tail) * 2^shift, |tail| far below 1.
float exp_shifted(float x, float tail, int shift) {
  if (is_nan(x)) return x;
  if (x > 88.8) return kInf;
  if (x < -104.0) return 0.0;
  float n = roundEven(x * 1.44269504);
  precise float r = x - n * 0.693359375;  // exact: the constant has nine bits
  r = r + n * 2.1219444e-4;
  r = r + tail;
  int exponent = int(n) + shift;
  int first = exponent / 2;  // in two steps, because 2^exponent may be no float
  return exp_near_zero(r) * power_of_two(first) * power_of_two(exponent - first);
}

float exp_sum(float x, float tail) {
  return exp_shifted(x, tail, 0);
}

float exp_accurate(float x) {
  return exp_sum(x, 0.0);
}

// e^x - 1. Where 2^n and 2^n - 1 are floats, x = n log 2 + r: 2^n (e^r - 1) + (2^n - 1), in which nothing cancels.
float expm1_accurate(float x) {
  if (is_nan(x) || abs(x) < 1e-30) return x;
  float n = roundEven(x * 1.44269504);
  if (abs(n) > 23.0) return exp_accurate(x) - 1.0;
  precise float r = x - n * 0.693359375;
  r = r + n * 2.1219444e-4;
  float scale = power_of_two(int(n));
  return scale * expm1_near_zero(r) + (scale - 1.0);
}

float log_accurate(float x) {
  uint bits = floatBitsToUint(x);
  if ((bits << 1) == 0u) return -kInf;
  if (is_nan(x) || bits == 0x7f800000u) return x;
  if ((bits >> 31) != 0u) return kNan;
  int exponent;
  float m = float(split_float(bits, exponent)) * 1.1920928955078125e-7;
  exponent += 23;
  if (m > 1.4142135) {
    m *= 0.5;
    exponent += 1;
  }
  float f = m - 1.0;
  float p = 6.7466840e-2;
  p = p * f - 1.1675772e-1;
  p = p * f + 1.1888209e-1;
  p = p * f - 1.2405574e-1;
  p = p * f + 1.4219545e-1;
  p = p * f - 1.6667996e-1;
  p = p * f + 2.0002119e-1;
  p = p * f - 2.5000009e-1;
  p = p * f + 3.3333313e-1;
  float n = float(exponent);
  precise float low = f * f * (f * p) - n * 2.1219444e-4;
  low = low - 0.5 * (f * f);
  precise float sum = f + low;
  sum = sum + n * 0.693359375;
  return sum;
}

// log(1 + x): what 1 + x is rounded to has another logarithm, by the quotient of what it and x are above 1. Of a large x that
// is 1, and a driver that divides by way of a reciprocal may flush it.
float log1p_accurate(float x) {
  if (is_nan(x) || abs(x) < 1e-9 || floatBitsToUint(x) == 0x7f800000u) return x;
  precise float sum = 1.0 + x;
  if (sum <= 0.0) return log_accurate(sum);
  precise float above = sum - 1.0;
  if (above == 0.0) return x;
  return x > 1e9 ? log_accurate(sum) : log_accurate(sum) * (x / above);
}

float sigmoid(float x) {
  float e = exp_accurate(-abs(x));
  return is_nan(x) ? x : (x < 0.0 ? e : 1.0) / (1.0 + e);
}

// x * sigmoid(z); far to the left e^z alone may be flushed to 0 while the product is a normal float.
float times_sigmoid(float x, float z) {
  return z < -64.0 ? x * exp_shifted(z, 0.0, 64) * power_of_two(-64) : x * sigmoid(z);
}

float silu(float x) {
  return times_sigmoid(x, x);
}

// Through the bits of x: drivers make a maximum of `x < 0.0 ? 0.0 : x`, and a maximum may drop NaN.
float clamp_low(float x, float low) {
  return is_nan(x) ? x : max(x, low);
}

float clamp_high(float x, float high) {
  return is_nan(x) ? x : min(x, high);
}

float tanh_accurate(float x) {
  float a = abs(x);
  if (is_nan(x)) return x;
  if (a > 9.2) return x < 0.0 ? -1.0 : 1.0;
  if (a > 0.55) {
    float y = 1.0 - 2.0 / (exp_accurate(2.0 * a) + 1.0);
    return x < 0.0 ? -y : y;
  }
  float z = x * x;
  float p = -6.2749782e-3;
  p = p * z + 2.1072792e-2;
  p = p * z - 5.3852737e-2;
  p = p * z + 1.3332592e-1;
  p = p * z - 3.3333316e-1;
  return x + x * z * p;
}

// e^(x^2) erfc(x) for x in [0.9, 10.5].
float erfcx(float x) {
  float t = (x - 2.0) / (x + 2.0);
  float p = -1.5046807e-3;
  p = p * t + 1.0982525e-3;
  p = p * t + 8.7628746e-3;
  p = p * t - 8.0101807e-3;
  p = p * t - 5.4225683e-2;
  p = p * t + 1.6404998e-1;
  p = p * t - 1.6603017e-1;
  p = p * t - 9.2763804e-2;
  p = p * t + 1.2769784;
  return p / (1.0 + 2.0 * x);
}

// erf(x) / x - 1 for |x| <= 1.
float erf_excess(float x) {
  float z = x * x;
  float p = 7.8538578e-5;
  p = p * z - 8.0101925e-4;
  p = p * z + 5.1883277e-3;
  p = p * z - 2.6853811e-2;
  p = p * z + 1.1283585e-1;
  p = p * z - 3.7612626e-1;
  return p * z + 1.2837917e-1;
}

float erf_accurate(float x) {
  float a = abs(x);
  if (is_nan(x)) return x;
  if (a <= 1.0) return x + x * erf_excess(x);
  float y = a > 4.0 ? 1.0 : 1.0 - exp_accurate(-a * a) * erfcx(a);
  return x < 0.0 ? -y : y;
}

// x * (1 + erf(x / sqrt(2))) / 2; in the left tail through erfc, and 1 + erf(t) as (1 + t) + t * excess, so that nothing
// cancels: 1 + t is exact where it is small.
float gelu(float x) {
  float t = x * 0.70710678;
  if (abs(t) <= 1.0) return 0.5 * x * ((1.0 + t) + t * erf_excess(t));
  if (t > 0.0) return 0.5 * x * (1.0 + erf_accurate(t));
  if (t < -10.5) return is_nan(x) || x == -kInf ? kNan : -0.0;
  float square = x * x;
  float error = product_error(x, x, square);
  return 0.5 * x * exp_sum(-0.5 * square, -0.5 * error) * erfcx(-t);
}

float gelu_tanh(float x) {
  return times_sigmoid(x, 1.5957691 * (x + 0.044715 * (x * x * x)));
}

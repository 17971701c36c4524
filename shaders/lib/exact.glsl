// Float arithmetic that is the same on every driver: Vulkan allows 2.5 ULP in a division and the flushing of
// subnormals, and the quantization parameters must be torch's bit for bit.

// Order-preserving integers for f32 bits: a < b as floats exactly when key(a) < key(b); NaN lies outside +-inf.
int float_key(uint bits) {
  int k = int(bits);
  return k ^ ((k >> 31) & 0x7fffffff);
}

float key_float(int key) {
  return intBitsToFloat(key ^ ((key >> 31) & 0x7fffffff));
}

const int kKeyInf = 0x7f800000;
const int kKeyNegInf = int(0x807fffffu);
const uint kNanBits = 0x7fc00000u;

bool is_finite_bits(uint bits) {
  return (bits & 0x7f800000u) != 0x7f800000u;
}

// f16 bits -> f32 bits, subnormals included.
uint half_bits_to_float_bits(uint h) {
  uint sign = (h & 0x8000u) << 16;
  uint exponent = (h >> 10) & 0x1fu;
  uint mantissa = h & 0x3ffu;
  if (exponent == 31u) return sign | 0x7f800000u | (mantissa << 13);
  if (exponent != 0u) return sign | ((exponent + 112u) << 23) | (mantissa << 13);
  return sign | floatBitsToUint(float(mantissa) * 5.9604644775390625e-8);  // mantissa * 2^-24, normal in f32
}

// Mantissa in [2^23, 2^24) and exponent of a finite, non-zero value: value = mantissa * 2^exponent.
uint split_float(uint bits, out int exponent) {
  int e = int((bits >> 23) & 0xffu);
  uint mantissa = (bits & 0x7fffffu) | (e != 0 ? 0x800000u : 0u);
  int shift = 23 - findMSB(mantissa);
  exponent = max(e, 1) - 150 - shift;
  return mantissa << shift;
}

// numerator / denominator rounded half to even, by integers from what a driver divides. A subnormal quotient becomes a
// signed zero (no caller can tell: they clamp it from below or round it to an integer); denominator > 0.
float exact_div(float numerator, float denominator) {
  uint a = floatBitsToUint(numerator);
  uint b = floatBitsToUint(denominator);
  uint sign = a & 0x80000000u;
  a &= 0x7fffffffu;
  if (a - 1u >= 0x7f7fffffu || b >= 0x7f800000u) {  // numerator 0, or one of them not finite
    if (a > 0x7f800000u || b > 0x7f800000u || (a == 0x7f800000u && b == a)) return uintBitsToFloat(kNanBits);
    return uintBitsToFloat(b == 0x7f800000u ? sign : sign | a);
  }
  int ea, eb;
  uint ma = split_float(a, ea);
  uint mb = split_float(b, eb);
  if (ma < mb) {
    ma <<= 1;
    ea -= 1;
  }
  // 1 + 24 bits, the mantissa and one bit to round by: a driver's quotient, within a few units of the last of them, and
  // what the remainder says of it. All of it fits in 32 bits once the multiples of 2^32 have cancelled out.
  float unit = 1.0 / float(mb);
  uint quotient = uint(float(ma) * unit * 16777216.0);
  int rest = int((ma << 24) - quotient * mb);
  int more = int(floor(float(rest) * unit));
  more += int(rest - more * int(mb) >= int(mb)) - int(rest - more * int(mb) < 0);
  quotient += uint(more);
  rest -= more * int(mb);
  uint mantissa = quotient >> 1;
  if ((quotient & 1u) != 0u && (rest != 0 || (mantissa & 1u) != 0u)) mantissa += 1u;
  int biased = ea - eb + 127 + int(mantissa >> 24);
  if ((mantissa >> 24) != 0u) mantissa >>= 1;
  if (biased <= 0) return uintBitsToFloat(sign);
  if (biased >= 255) return uintBitsToFloat(sign | 0x7f800000u);
  return uintBitsToFloat(sign | (uint(biased) << 23) | (mantissa & 0x7fffffu));
}

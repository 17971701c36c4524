// sin and cos of any f32, to about two units in the last place: Vulkan promises an absolute error of 2^-11 within
// [-pi, pi] and nothing outside. Needs exact.glsl and math.glsl.

// x = quadrant * pi/2 + the returned rest, |rest| <= pi/4; x finite. Integer arithmetic on 2/pi (Payne and Hanek):
// of its bits, those that only move x * 2/pi by multiples of 4 are skipped, and the next 96 are multiplied exactly.
float reduce_angle(float x, out uint quadrant) {
  quadrant = 0u;
  if (abs(x) < 0.78539816) return x;
  const uint two_over_pi[8] =
      uint[8](0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu);
  int exponent;
  uint mantissa = split_float(floatBitsToUint(x) & 0x7fffffffu, exponent);
  uint start = uint(30 + exponent);  // exponent in [-24, 104]
  uint word = start >> 5;
  uint shift = start & 31u;
  uint window[3];
  [[unroll]] for (uint i = 0u; i < 3u; ++i) {
    uint next = shift == 0u ? 0u : two_over_pi[word + i + 1u] >> (32u - shift);
    window[i] = (two_over_pi[word + i] << shift) | next;
  }
  uint high, middle, carry, unused;
  umulExtended(mantissa, window[2], carry, unused);
  uint over, low;
  umulExtended(mantissa, window[1], over, low);
  middle = uaddCarry(low, carry, carry);
  high = mantissa * window[0] + over + carry;
  // high:middle is x * 2/pi modulo 4, the two uppermost bits its integer part; round it to the nearest quadrant.
  quadrant = ((high + 0x20000000u) >> 30) & 3u;
  high = (high << 2) | (middle >> 30);
  middle <<= 2;
  bool above_half = (high >> 31) != 0u;
  if (above_half) {
    high = ~high;
    middle = ~middle;
  }
  int top = findMSB(high);
  float rest;
  if (top < 0) {
    rest = float(middle) * 5.4210109e-20;  // 2^-64
  } else {
    uint lift = uint(31 - top);
    uint joined = lift == 0u ? high : (high << lift) | (middle >> (32u - lift));
    rest = float(joined) * 2.3283064e-10 * power_of_two(-int(lift));
  }
  rest *= 1.5707964;
  if (above_half) rest = -rest;
  if (x < 0.0) {
    rest = -rest;
    quadrant = (4u - quadrant) & 3u;
  }
  return rest;
}

float sine_near_zero(float r) {
  float z = r * r;
  return r + r * z * ((-1.9517272e-4 * z + 8.3321780e-3) * z - 1.6666655e-1);
}

float cosine_near_zero(float r) {
  float z = r * r;
  return 1.0 - (0.5 * z - z * z * ((2.4438421e-5 * z - 1.3887368e-3) * z + 4.1666646e-2));
}

// sin(x + quarter * pi/2): quarter 0 is sin, 1 is cos.
float sine(float x, uint quarter) {
  if ((floatBitsToUint(x) & 0x7f800000u) == 0x7f800000u) return kNan;
  uint quadrant;
  float r = reduce_angle(x, quadrant);
  quadrant = (quadrant + quarter) & 3u;
  float value = (quadrant & 1u) == 0u ? sine_near_zero(r) : cosine_near_zero(r);
  return (quadrant & 2u) == 0u ? value : -value;
}

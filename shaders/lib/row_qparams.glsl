// Scale and zero point of the row that a workgroup owns. Needs choose_qparams.glsl and LANES.
#extension GL_EXT_control_flow_attributes : require

shared int keys_of[2 * LANES];  // the smallest, then the largest turned round, so that both are minima
#if LANES > 16
const uint kEnds = LANES > 256 ? 32u : 16u;
shared int ends[2 * kEnds];
#else
const uint kEnds = LANES;
#define ends keys_of
#endif
shared float scale_of_row;
shared float quotients[3];  // of 1, the smallest and the largest value, divided by it

// Bits of a lane's smallest negative and largest positive value: those of a sign are in order, NaN outside +-inf.
struct Extremes {
  uint lowest;
  int highest;
};

Extremes no_extremes() {
  return Extremes(0x7fffffffu, 0);
}

void include_value(uint bits, inout Extremes extremes) {
  extremes.lowest = max(extremes.lowest, bits);
  extremes.highest = max(extremes.highest, int(bits));
}

// From every lane's extremes, and 0; inverse is 1 / scale. A row that holds a NaN gets a NaN scale and zero point 0. Three
// lanes divide, all at once: a division is long, and a whole workgroup would take its time. Call in uniform flow.
void choose_for_row(Extremes extremes, out float scale_value, out int zero_point, out float inverse) {
  uint lane = gl_LocalInvocationIndex;
  keys_of[lane] = extremes.lowest > 0x7fffffffu ? float_key(extremes.lowest) : 0;
  keys_of[LANES + lane] = ~extremes.highest;
  barrier();
#if LANES > 16
  if (lane < 2u * kEnds) {
    uint first = lane / kEnds * LANES + lane % kEnds;
    int least = 0x7fffffff;
    [[unroll]] for (uint i = 0; i < LANES; i += kEnds) least = min(least, keys_of[first + i]);
    ends[lane] = least;
  }
  barrier();
#endif
  if (lane < 3u) {
    int lo = 0;
    int hi = 0;
    [[unroll]] for (uint i = 0; i < kEnds; ++i) {
      lo = min(lo, ends[i]);
      hi = max(hi, ~ends[kEnds + i]);
    }
    float least = key_float(lo);
    float greatest = key_float(hi);
    bool is_nan_row = lo < kKeyNegInf || hi > kKeyInf;
    float chosen = is_nan_row ? uintBitsToFloat(kNanBits) : scale_between(least, greatest);
    quotients[lane] = exact_div(lane == 0u ? 1.0 : lane == 1u ? least : greatest, chosen);
    scale_of_row = chosen;
  }
  barrier();
  scale_value = scale_of_row;
  inverse = quotients[0];
  bool has_scale = (floatBitsToUint(scale_value) & 0x7fffffffu) <= 0x7f800000u;
  zero_point = has_scale ? zero_point_between(quotients[1], quotients[2]) : 0;
}

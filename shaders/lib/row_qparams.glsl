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
// lanes divide, all at once: a division is long, and a whole workgroup would take its time. With SUBGROUPS (reduce.glsl)
// three lanes of each subgroup do, and the others ask them; of many subgroups one. Call in uniform flow.
void choose_for_row(Extremes extremes, out float scale_value, out int zero_point, out float inverse) {
  uint lane = gl_LocalInvocationIndex;
  int lo = extremes.lowest > 0x7fffffffu ? float_key(extremes.lowest) : 0;
  int hi = extremes.highest;
  bool divides = lane < 3u;
  bool shares = true;  // in shared memory
#ifdef SUBGROUPS
  bool by_subgroups = has_whole_subgroups();
  if (by_subgroups) {
    lane = gl_SubgroupInvocationID;
    divides = is_worker();
    shares = LANES > 512;
    lo = subgroupMin(lo);
    hi = subgroupMax(hi);
    if (subgroupElect()) {
      keys_of[gl_SubgroupID] = lo;
      keys_of[LANES + gl_SubgroupID] = ~hi;
    }
    barrier();
    if (divides) {
      for (uint i = 0u; i < LANES / SUBGROUP; i += SUBGROUP) {
        uint at = min(i + lane, LANES / SUBGROUP - 1u);
        lo = min(lo, keys_of[at]);
        hi = max(hi, ~keys_of[LANES + at]);
      }
      lo = subgroupMin(lo);
      hi = subgroupMax(hi);
    }
  } else {
#endif
  keys_of[lane] = lo;
  keys_of[LANES + lane] = ~hi;
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
  if (divides) {
    [[unroll]] for (uint i = 0; i < kEnds; ++i) {
      lo = min(lo, ends[i]);
      hi = max(hi, ~ends[kEnds + i]);
    }
  }
#ifdef SUBGROUPS
  }
#endif
  vec3 quotient = vec3(0.0);  // of 1, the smallest and the largest value, divided by the scale
  if (divides) {
    float least = key_float(lo);
    float greatest = key_float(hi);
    bool is_nan_row = lo < kKeyNegInf || hi > kKeyInf;
    scale_value = is_nan_row ? uintBitsToFloat(kNanBits) : scale_between(least, greatest);
    float own = exact_div(lane == 0u ? 1.0 : lane == 1u ? least : greatest, scale_value);
#ifdef SUBGROUPS
    if (!shares) quotient = vec3(subgroupShuffle(own, 0u), subgroupShuffle(own, 1u), subgroupShuffle(own, 2u));
#endif
    if (shares && lane < 3u) {
      quotients[lane] = own;
      scale_of_row = scale_value;
    }
  }
  if (shares) {
    barrier();
    scale_value = scale_of_row;
    quotient = vec3(quotients[0], quotients[1], quotients[2]);
  }
  inverse = quotient.x;
  bool has_scale = (floatBitsToUint(scale_value) & 0x7fffffffu) <= 0x7f800000u;
  zero_point = has_scale ? zero_point_between(quotient.y, quotient.z) : 0;
}

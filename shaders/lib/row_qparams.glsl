// Scale and zero point of the row that a workgroup owns. Needs choose_qparams.glsl and LANES.
#extension GL_EXT_control_flow_attributes : require

shared int keys_of[2 * LANES];  // the smallest, then the largest turned round, so that both are minima
#if LANES > 16
const uint kEnds = LANES > 256 ? 32u : 16u;
shared int ends[2 * kEnds];
#endif

void include_value(uint bits, inout int lo, inout int hi) {
  int key = float_key(bits);
  lo = min(lo, key);
  hi = max(hi, key);
}

// From every lane's smallest and largest key, at most and at least 0. A row that holds a NaN gets a NaN scale and zero
// point 0. Call in uniform flow.
void choose_for_row(int lo, int hi, out float scale_value, out int zero_point) {
  uint lane = gl_LocalInvocationIndex;
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
  [[unroll]] for (uint i = 0; i < kEnds; ++i) {
    lo = min(lo, ends[i]);
    hi = max(hi, ~ends[kEnds + i]);
  }
#else
  [[unroll]] for (uint i = 0; i < LANES; ++i) {
    lo = min(lo, keys_of[i]);
    hi = max(hi, ~keys_of[LANES + i]);
  }
#endif
  scale_value = uintBitsToFloat(kNanBits);
  zero_point = 0;
  if (lo < kKeyNegInf || hi > kKeyInf) return;
  choose(key_float(lo), key_float(hi), scale_value, zero_point);
}

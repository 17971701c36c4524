// Scale and zero point of the row that a workgroup owns. Needs choose_qparams.glsl and LANES.

shared int lo_keys[LANES];
shared int hi_keys[LANES];

void include_value(uint bits, inout int lo, inout int hi) {
  int key = float_key(bits);
  lo = min(lo, key);
  hi = max(hi, key);
}

// From every lane's smallest and largest key, at most and at least 0. A row that holds a NaN gets a NaN scale and zero
// point 0. Call in uniform flow.
void choose_for_row(int lo, int hi, out float scale_value, out int zero_point) {
  uint lane = gl_LocalInvocationIndex;
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
  scale_value = uintBitsToFloat(kNanBits);
  zero_point = 0;
  if (lo_keys[0] < kKeyNegInf || hi_keys[0] > kKeyInf) return;
  choose(key_float(lo_keys[0]), key_float(hi_keys[0]), scale_value, zero_point);
}

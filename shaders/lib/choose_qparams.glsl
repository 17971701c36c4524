// Scale and zero point of values in [lo, hi], lo <= 0 <= hi, bit-equal to torch's (choose_qparams_per_row.comp gives the
// formulas). Needs exact.glsl and the push constants mapping, qmin, qmax and eps.

// Scale of a row, never below eps. Compared as bits: eps may be the smallest normal number.
float clamp_scale(float scale_value) {
  uint bits = floatBitsToUint(scale_value);
  return bits < floatBitsToUint(eps) ? eps : scale_value;
}

float scale_between(float lo, float hi) {
  precise float range = hi - lo;
  float largest = max(-lo, hi);
  if (mapping == 1) return clamp_scale(exact_div(largest, 0.5 * float(qmax - qmin)));
  if (mapping == 3) return exact_div(clamp_scale(largest), float(qmax));
  return clamp_scale(exact_div(range, float(qmax - qmin)));
}

// From lo / scale and hi / scale, as exact_div gives them.
int zero_point_between(float low, float high) {
  if (mapping == 3) return 0;
  if (mapping == 1) return (qmax + qmin + 1) / 2;
  if (mapping == 0) return int(clamp(float(qmin) - roundEven(low), float(qmin), float(qmax)));
  precise float low_error = float(qmin) + low;
  precise float high_error = float(qmax) + high;
  precise float error = low_error + high_error;
  precise float from_low = float(qmin) - low;
  precise float from_high = float(qmax) - high;
  float zero_point = error > 0.0 ? from_low : from_high;
  return int(roundEven(clamp(zero_point, float(qmin), float(qmax))));
}

// Scale and zero point of values in [lo, hi], lo <= 0 <= hi, bit-equal to torch's (choose_qparams_per_row.comp gives the
// formulas). Needs exact.glsl and the push constants mapping, qmin, qmax and eps.

// Scale of a row, never below eps. Compared as bits: eps may be the smallest normal number.
float clamp_scale(float scale_value) {
  uint bits = floatBitsToUint(scale_value);
  return bits < floatBitsToUint(eps) ? eps : scale_value;
}

int two_sided_zero_point(float lo, float hi, float scale_value) {
  precise float low = exact_div(lo, scale_value);
  precise float high = exact_div(hi, scale_value);
  precise float low_error = float(qmin) + low;
  precise float high_error = float(qmax) + high;
  precise float error = low_error + high_error;
  precise float from_low = float(qmin) - low;
  precise float from_high = float(qmax) - high;
  float zero_point = error > 0.0 ? from_low : from_high;
  return int(roundEven(clamp(zero_point, float(qmin), float(qmax))));
}

void choose(float lo, float hi, out float scale_value, out int zero_point) {
  precise float range = hi - lo;
  float largest = max(-lo, hi);
  zero_point = 0;
  if (mapping == 1) {
    scale_value = clamp_scale(exact_div(largest, 0.5 * float(qmax - qmin)));
    zero_point = (qmax + qmin + 1) / 2;
  } else if (mapping == 3) {
    scale_value = exact_div(clamp_scale(largest), float(qmax));
  } else {
    scale_value = clamp_scale(exact_div(range, float(qmax - qmin)));
    if (mapping == 2) {
      zero_point = two_sided_zero_point(lo, hi, scale_value);
    } else {
      zero_point = int(clamp(float(qmin) - roundEven(exact_div(lo, scale_value)), float(qmin), float(qmax)));
    }
  }
}

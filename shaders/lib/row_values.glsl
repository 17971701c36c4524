// Values of a row that is about to be quantized: x itself, or what stands between x and its quantization.
//   PROLOGUE 0  x
//   PROLOGUE 1  x / sqrt(mean(x^2) + norm_eps) * weight_offset                the arithmetic of rms_norm.comp, not rounded
//   PROLOGUE 2  x / sqrt(mean(x^2) + norm_eps) * (weight_offset + weight)     to f16 in between
//   PROLOGUE 3  f(x) * up, f chosen by OP; quantize_rows.comp alone
// Needs exact.glsl, activation.glsl, activations.glsl, rms.glsl, `weight`, and the push constants row_length, norm_eps and
// weight_offset.

float load_x(uint i) {
  return uintBitsToFloat(load_x_bits(i));
}

// The factor of the norm, for a row that starts at `start`. Call in uniform flow.
float row_factor(uint start) {
  if (PROLOGUE != 1u && PROLOGUE != 2u) return 1.0;
  float squares = 0.0;
  for (uint k = gl_LocalInvocationIndex; k < row_length; k += LANES) squares = add_square(squares, load_x(start + k));
  return inverse_rms(squares, row_length, norm_eps);
}

#ifdef UP_BINDING
uint up_start;  // of the row
#endif

// The value that x, read as bits, and the element's weight, or `up`, become.
uint value_of(uint bits, float own_weight, float factor) {
  if (PROLOGUE == 1u) return floatBitsToUint(uintBitsToFloat(bits) * factor * weight_offset);
  if (PROLOGUE == 2u) return floatBitsToUint(uintBitsToFloat(bits) * factor * (weight_offset + own_weight));
#ifdef UP_BINDING
  if (PROLOGUE == 3u) return floatBitsToUint(activate(uintBitsToFloat(bits)) * own_weight);
#endif
  return bits;
}

float weight_at(uint k) {
#ifdef UP_BINDING
  if (PROLOGUE == 3u) return float(up[up_start + k]);
#endif
  return PROLOGUE == 2u ? float(weight[k]) : 0.0;
}

uint row_value_bits(uint start, uint k, float factor) {
  return value_of(load_x_bits(start + k), weight_at(k), factor);
}

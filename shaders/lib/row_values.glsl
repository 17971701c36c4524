// Values of a row that is about to be quantized: x itself, or what stands between x and its quantization.
//   PROLOGUE 0  x
//   PROLOGUE 1  x / sqrt(mean(x^2) + norm_eps) * weight_offset                the arithmetic of rms_norm.comp, not rounded
//   PROLOGUE 2  x / sqrt(mean(x^2) + norm_eps) * (weight_offset + weight)     to f16 in between
//   PROLOGUE 3  f(x) * up, f chosen by OP; quantize_rows.comp alone
// Needs exact.glsl, quads.glsl, activations.glsl, rms.glsl, `weight`, and the push constants row_length, norm_eps and
// weight_offset.

uint load_x_bits(uint i) {
  return QUAD_ELEMENT(x, i);
}

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
  if (PROLOGUE == 3u) return uintBitsToFloat(QUAD_ELEMENT(up, up_start + k));
#endif
  return PROLOGUE == 2u ? uintBitsToFloat(QUAD_ELEMENT(weight, k)) : 0.0;
}

// Of elements 4 * i and on, as weight_at; what `up` has of the row starts at a multiple of four.
vec4 weight_quad(uint i) {
#ifdef UP_BINDING
  if (PROLOGUE == 3u) return uintBitsToFloat(quad_bits(up[up_start / 4u + i]));
#endif
  return PROLOGUE == 2u ? uintBitsToFloat(quad_bits(weight[i])) : vec4(0.0);
}

uint row_value_bits(uint start, uint k, float factor) {
  return value_of(load_x_bits(start + k), weight_at(k), factor);
}

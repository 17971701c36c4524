// The activation `x`, read as words so that no driver flushes its subnormals.

// f32 bits of element i.
uint load_x_bits(uint i) {
#ifdef X_F16
  uint word = x[i >> 1];
  return half_bits_to_float_bits((i & 1u) == 0u ? word & 0xffffu : word >> 16);
#else
  return x[i];
#endif
}

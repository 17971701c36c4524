// Elements of f32 or f16 buffers that are read by fours, as words: no driver flushes their subnormals. Needs exact.glsl;
// X_F16 says which they are.

#ifdef X_F16
// f32 bits of element i.
#define QUAD_ELEMENT(quads, i) half_bits_to_float_bits(((quads[(i) >> 2][((i) >> 1) & 1u] >> (16u * ((i) & 1u))) & 0xffffu))

uvec4 quad_bits(uvec2 words) {
  uvec4 bits = uvec4(words.x & 0xffffu, words.x >> 16, words.y & 0xffffu, words.y >> 16);
  [[unroll]] for (uint i = 0; i < 4u; ++i) bits[i] = half_bits_to_float_bits(bits[i]);
  return bits;
}
#else
#define QUAD_ELEMENT(quads, i) quads[(i) >> 2][(i) & 3u]

uvec4 quad_bits(uvec4 words) {
  return words;
}
#endif

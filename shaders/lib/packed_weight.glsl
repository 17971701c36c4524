// The packed weight `w`: 32 values of output n, chunk c (layouts in section 4 of the design). Needs binding `w`.

// Eight words of four signed bytes in k order. Four-bit values come scaled by 16: each nibble stays in the upper
// half of its byte, so that unpacking eight weights costs two masks and one shift. kWeightShift undoes it.
#ifdef W_I4
const int kWeightShift = 4;
#else
const int kWeightShift = 0;
#endif

void load_weight_chunk(uint c, uint n, uint outputs, out int words[8]) {
#ifdef W_I4
  uvec4 packed = w[c * outputs + n];
  [[unroll]] for (uint j = 0; j < 4u; ++j) {
    words[2u * j] = int((packed[j] << 4) & 0xf0f0f0f0u);
    words[2u * j + 1u] = int(packed[j] & 0xf0f0f0f0u);
  }
#else
  uvec4 first = w[2u * c * outputs + n];
  uvec4 second = w[(2u * c + 1u) * outputs + n];
  [[unroll]] for (uint j = 0; j < 4u; ++j) {
    words[j] = int(first[j]);
    words[4u + j] = int(second[j]);
  }
#endif
}

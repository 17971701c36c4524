// The packed weight `w`: 32 values of output n, chunk c (layouts in section 4 of the design). Needs binding `w`.

// Eight words of four signed bytes in k order. Four-bit values come scaled by 16: each nibble stays in the upper
// half of its byte, so that unpacking eight weights costs two masks and one shift. kWeightShift undoes it.
#ifdef W_I4
const int kWeightShift = 4;
#else
const int kWeightShift = 0;
#endif

// A chunk as it is stored: it can be on its way while another one is used.
struct PackedChunk {
  uvec4 first;
#ifndef W_I4
  uvec4 second;
#endif
};

PackedChunk load_packed_chunk(uint c, uint n, uint outputs) {
#ifdef W_I4
  return PackedChunk(w[c * outputs + n]);
#else
  return PackedChunk(w[2u * c * outputs + n], w[(2u * c + 1u) * outputs + n]);
#endif
}

void unpack_chunk(PackedChunk chunk, out int words[8]) {
  [[unroll]] for (uint j = 0; j < 4u; ++j) {
#ifdef W_I4
    words[2u * j] = int((chunk.first[j] << 4) & 0xf0f0f0f0u);
    words[2u * j + 1u] = int(chunk.first[j] & 0xf0f0f0f0u);
#else
    words[j] = int(chunk.first[j]);
    words[4u + j] = int(chunk.second[j]);
#endif
  }
}

void load_weight_chunk(uint c, uint n, uint outputs, out int words[8]) {
  unpack_chunk(load_packed_chunk(c, n, outputs), words);
}

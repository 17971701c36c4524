// Elements of buffers that are read and written as words, because a device may have no 8-bit or 16-bit storage. The
// build defines X_AT(i), an element of slot x, by these.

uint byte_of(uint word, uint i) {
  return bitfieldExtract(word, int(8u * (i & 3u)), 8);
}

int signed_byte_of(uint word, uint i) {
  return bitfieldExtract(int(word), int(8u * (i & 3u)), 8);
}

float half_of(uint word, uint i) {
  vec2 both = unpackHalf2x16(word);  // LLVM 15 for arm64 cannot unpack a half that it first shifts
  return (i & 1u) == 0u ? both.x : both.y;
}

// Element i of bytes, or of halves, that lie in `words`; invocations may write parts of one word at once.
#define PUT_BYTE(words, i, value) PUT_BITS(words[uint(i) >> 2], 8u * (uint(i) & 3u), 0xffu, uint(value))
#define PUT_HALF(words, i, value) \
  PUT_BITS(words[uint(i) >> 1], 16u * (uint(i) & 1u), 0xffffu, packHalf2x16(vec2(value, 0.0)))
#define PUT_BITS(word, first, mask, value)        \
  {                                               \
    uint put_first = first;                       \
    atomicAnd(word, ~(mask << put_first));        \
    atomicOr(word, (value & mask) << put_first);  \
  }

// Elements of buffers that are read and written as words, because a device may have no 8-bit or 16-bit storage. The
// build defines X_AT(i), an element of slot x, by these.

uint byte_of(uint word, uint i) {
  return bitfieldExtract(word, int(8u * (i & 3u)), 8);
}

int signed_byte_of(uint word, uint i) {
  return bitfieldExtract(int(word), int(8u * (i & 3u)), 8);
}

// By integers: LLVM 15 for arm64 cannot compile unpackHalf2x16 of a half that depends on i.
float half_of(uint word, uint i) {
  uint bits = bitfieldExtract(word, int(16u * (i & 1u)), 16);
  uint size = bits & 0x7fffu;
  uint exponent = size < 0x7c00u ? 0x38000000u : 0x70000000u;  // what a float's is larger by; of Inf and NaN
  float value = size < 0x400u ? float(size) * 5.9604644775390625e-8 : uintBitsToFloat((size << 13) + exponent);
  return (bits & 0x8000u) == 0u ? value : -value;
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

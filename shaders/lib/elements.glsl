// Elements of buffers that are read and written as words, because a device may have no 8-bit or 16-bit storage. The
// build defines X_AT(i), an element of slot x, by these.

uint byte_of(uint word, uint i) {
  return bitfieldExtract(word, int(8u * (i & 3u)), 8);
}

int signed_byte_of(uint word, uint i) {
  return bitfieldExtract(int(word), int(8u * (i & 3u)), 8);
}

float half_of(uint word, uint i) {
  return unpackHalf2x16(word >> (16u * (i & 1u))).x;
}

// Element i of bytes that lie in `words`; invocations may write bytes of one word at once.
#define PUT_BYTE(words, i, value)                                               \
  {                                                                             \
    uint put_at = uint(i);                                                      \
    atomicAnd(words[put_at >> 2], ~(0xffu << (8u * (put_at & 3u))));            \
    atomicOr(words[put_at >> 2], (uint(value) & 0xffu) << (8u * (put_at & 3u))); \
  }

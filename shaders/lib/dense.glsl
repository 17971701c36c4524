// A dense y of n_elements: EACH_ELEMENT(i) { ... PUT(i, value) ... } PUT_WORD makes one an invocation, or the four bytes of
// a word.

#ifdef Y_U8
#define EACH_ELEMENT(i)                                                                      \
  uint word = 0u;                                                                            \
  [[unroll]] for (uint e = 0u, i = 4u * element_index(); e < 4u; ++e, ++i) if (i < n_elements)
#define PUT(i, value) word |= (uint(value) & 0xffu) << (8u * (i & 3u));
#define PUT_WORD if (4u * element_index() < n_elements) y[element_index()] = word;
#else
#define EACH_ELEMENT(i)         \
  uint i = element_index();     \
  if (i < n_elements)
#define PUT(i, value) y[i] = value;
#define PUT_WORD
#endif

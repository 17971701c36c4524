// RMS norm over a head, when NORMED, and its rotation: rotary(x * inversesqrt(mean(x * x) + eps) * weight), in f32.
// A head belongs to kHeadLanes neighbouring invocations. What the caches hold must not depend on which kernel computed
// it: one order of adding, and `precise` where a compiler might fuse a product with a sum.
// Needs lib/rotary.glsl and its needs, HEAD_DIM, NORMED, eps, and head_element(head, i) and head_weight(head, i), which
// say what x and weight are.

const uint kHeadLanes = 32u;

shared float squares[LANES];

// inversesqrt(mean(x * x) + eps) of a head, 1 without a norm. Call in uniform flow; teams may have different heads.
float head_norm(uint head) {
  if (NORMED == 0u) return 1.0;
  uint index = gl_LocalInvocationIndex;
  uint lane = index % kHeadLanes;
  precise float own = 0.0;
  for (uint i = lane; i < HEAD_DIM; i += kHeadLanes) own += head_element(head, i) * head_element(head, i);
  barrier();  // an earlier head's sum may still be read
  squares[index] = own;
  barrier();
#if LANES > 32
  // The halvings below, in registers: a wait costs more than the reads.
  float halves[kHeadLanes];
  [[unroll]] for (uint i = 0; i < kHeadLanes; ++i) halves[i] = squares[index - lane + i];
  [[unroll]] for (uint width = kHeadLanes / 2u; width > 0u; width >>= 1) {
    [[unroll]] for (uint i = 0; i < kHeadLanes / 2u; ++i) {
      if (i < width) halves[i] += halves[i + width];
    }
  }
  precise float mean = halves[0] / float(HEAD_DIM) + eps;
#else
  for (uint width = kHeadLanes / 2u; width > 0u; width >>= 1) {
    if (lane < width) squares[index] += squares[index + width];
    barrier();
  }
  precise float mean = squares[index - lane] / float(HEAD_DIM) + eps;
#endif
  return inversesqrt(mean);
}

// Two elements of a head after its norm.
vec2 normed_pair(uint head, float norm, uvec2 elements) {
  vec2 value = vec2(head_element(head, elements.x), head_element(head, elements.y)) * norm;
  if (NORMED != 0u) value *= vec2(head_weight(head, elements.x), head_weight(head, elements.y));
  return value;
}

// Elements pair_elements(pair) of a head, turned by a row of the tables.
vec2 turned_pair(uint head, float norm, uint row, uint pair) {
  return rotate(row, pair, normed_pair(head, norm, pair_elements(pair)));
}

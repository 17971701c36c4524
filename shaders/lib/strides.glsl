// Positions in a space of four dimensions, row-major. Needs push constants size1, size2, size3 and the specialization
// constant LEVELS: how many of the innermost dimensions are not trivial (1 needs no division).

ivec4 position_of(uint i) {
  if (LEVELS == 1u) return ivec4(0, 0, 0, i);
  uint d3 = i % uint(size3);
  i /= uint(size3);
  if (LEVELS == 2u) return ivec4(0, 0, i, d3);
  uint d2 = i % uint(size2);
  i /= uint(size2);
  if (LEVELS == 3u) return ivec4(0, i, d2, d3);
  return ivec4(i / uint(size1), i % uint(size1), d2, d3);
}

int dot4i(ivec4 a, ivec4 b) {
  return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

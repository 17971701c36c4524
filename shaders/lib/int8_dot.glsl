// dot4(a, b, c): c + sum of the four signed bytes of a times those of b, exact in int32.
#ifdef INT8_DOT
#extension GL_EXT_spirv_intrinsics : require
// OpSDotKHR with PackedVectorFormat4x8Bit (SPV_KHR_integer_dot_product; capabilities DotProduct and DotProductInput4x8BitPacked).
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019], id = 4450)
int packed_dot(int a, int b, spirv_literal int packed_format);

int dot4(int a, int b, int c) {
  return c + packed_dot(a, b, 0);
}
#else
int dot4(int a, int b, int c) {
  c += ((a << 24) >> 24) * ((b << 24) >> 24);
  c += ((a << 16) >> 24) * ((b << 16) >> 24);
  c += ((a << 8) >> 24) * ((b << 8) >> 24);
  return c + (a >> 24) * (b >> 24);
}
#endif
